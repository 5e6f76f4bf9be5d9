"""A LoRA of several parts, each with a strength of its own.

PiSA-SR trains two LoRAs on the same layers, and so may we. In a `DfosdLora` they are one pair a layer, their rows one
behind the other, and `LoraMetadata.parts` says how many rows belong to which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from .changes import LoraChanges, LoraPair
from .file import DfosdLora

LoraT = TypeVar("LoraT", bound=LoraChanges)

PIXEL, SEMANTIC = "pixel", "semantic"
"""PiSA-SR's parts: the one restores faithfully, the other adds detail on top of it."""


def scaled(lora: LoraT, strengths: Mapping[str, float]) -> LoraT:
    """`lora` with the named parts, times these, and the others as they are; itself where all are 1.

    Raises KeyError for a part that it does not have.
    """
    parts = lora.metadata.parts
    unknown = strengths.keys() - parts.keys()
    if unknown:
        raise KeyError(f"the LoRA has no part {min(unknown)}")
    factors = {**dict.fromkeys(parts, 1.0), **strengths}
    if all(factor == 1.0 for factor in factors.values()):
        return lora
    columns = torch.cat([torch.full((rank,), factors[name]) for name, rank in parts.items()])
    pairs = {
        layer: replace(pair, up=pair.up.float() * columns.to(pair.up.device).reshape(-1, *[1] * (pair.up.ndim - 2)))
        for layer, pair in lora.pairs.items()
    }
    return replace(lora, pairs=pairs)


def joined(pixel: DfosdLora, semantic: DfosdLora) -> DfosdLora:
    """Two LoRAs on the same layers as one of the two parts, which does what both do together.

    Prompt, metadata and number format are `semantic`'s. Raises ValueError where a pair's rank is not its LoRA's, or
    their layers differ.
    """
    ranks = {PIXEL: pixel.metadata.rank, SEMANTIC: semantic.metadata.rank}
    for lora, rank in zip((pixel, semantic), ranks.values(), strict=True):
        if lora.pairs.keys() != semantic.pairs.keys() or any(pair.rank != rank for pair in lora.pairs.values()):
            raise ValueError("two parts need pairs of one rank each, on the same layers")
    whole = sum(ranks.values())
    pairs = {layer: _behind(pixel.pairs[layer], pair, float(whole)) for layer, pair in semantic.pairs.items()}
    metadata = replace(semantic.metadata, rank=whole, lora_alpha=float(whole), parts=ranks)
    return replace(semantic, pairs=pairs, metadata=metadata)


def split(lora: LoraT) -> dict[str, LoraT]:
    """Each part as a LoRA of its own, in the order of `LoraMetadata.parts`; what `joined` has put together.

    A LoRA of one part has none by name: the dictionary is empty.
    """
    found: dict[str, LoraT] = {}
    first = 0
    for name, rank in lora.metadata.parts.items():
        rows = slice(first, first := first + rank)
        pairs = {
            layer: LoraPair(down=pair.down[rows], up=pair.up[:, rows], alpha=pair.scaling * rank)
            for layer, pair in lora.pairs.items()
        }
        alpha = lora.metadata.lora_alpha / lora.metadata.rank * rank
        metadata = replace(lora.metadata, rank=rank, lora_alpha=alpha, parts={})
        found[name] = replace(lora, pairs=pairs, metadata=metadata)
    return found


def _behind(first: LoraPair, second: LoraPair, alpha: float) -> LoraPair:
    down = torch.cat([pair.down.to(second.down) for pair in (first, second)])
    up = torch.cat([_with_factor(pair).to(second.up) for pair in (first, second)], dim=1)
    return LoraPair(down=down, up=up, alpha=alpha)


def _with_factor(pair: LoraPair) -> Tensor:
    return pair.up if pair.scaling == 1.0 else pair.up.float() * pair.scaling
