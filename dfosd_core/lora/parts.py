"""A LoRA of several parts, each with a strength of its own.

PiSA-SR trains two LoRAs on the same layers. In a `DfosdLora` they are one pair a layer, their rows one behind the
other, and `LoraMetadata.parts` says how many rows belong to which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from .file import DfosdLora

PIXEL, SEMANTIC = "pixel", "semantic"
"""PiSA-SR's parts: the one restores faithfully, the other adds detail on top of it."""


def scaled(lora: DfosdLora, strengths: Mapping[str, float]) -> DfosdLora:
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
