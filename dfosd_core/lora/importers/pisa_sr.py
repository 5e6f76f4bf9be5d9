"""PiSA-SR (Sun et al., arXiv 2412.03017): `pisa_sr.pkl`, two LoRAs of rank 4 on the same layers of the UNet.

The "pixel" LoRA restores faithfully, the "semantic" one adds detail on top of it. Both have peft's default alpha of 8
and act at timestep 1 on the plain VAE; what the UNet predicts is subtracted from the latent. Two pairs on one layer are
one pair of their ranks' sum here, whose `parts` say where the one ends: `lora/parts.py` gives each its strength.
"""

from __future__ import annotations

import torch

from ...one_step import RESIDUAL
from ..file import LoraPair
from ..metadata import LoraMetadata
from ..parts import PIXEL, SEMANTIC
from .content import (
    BASE_MODEL,
    PEFT_DEFAULT_ALPHA,
    UNET_PARTS,
    Content,
    ImportedLora,
    check_modules,
    peft_pairs,
    sd_layout,
)

KINDS = ("pix", "sem")


def detect(content: Content) -> bool:
    """Its lists of layers, one for each kind of LoRA."""
    return any(f"unet_lora_encoder_modules_{kind}" in content.values for kind in KINDS)


def read(content: Content) -> ImportedLora:
    """Raises LoraFormatError for a file that is incomplete or damaged."""
    lists = {f"default_{part}_{kind}": f"unet_lora_{part}_modules_{kind}" for kind in KINDS for part in UNET_PARTS}
    ranks = {kind: f"lora_rank_unet_{kind}" for kind in KINDS}
    content.only(["state_dict_unet", *ranks.values(), *lists.values()])
    tensors = content.tensors("state_dict_unet")
    check_modules(content, tensors, {adapter: content.names(key) for adapter, key in lists.items()})
    pixel_rank, semantic_rank = (content.whole(ranks[kind]) for kind in KINDS)
    pixel, semantic = (
        peft_pairs(
            content,
            tensors,
            rank=rank,
            alpha=PEFT_DEFAULT_ALPHA,
            only=[f"default_{part}_{kind}" for part in UNET_PARTS],
        )
        for kind, rank in zip(KINDS, (pixel_rank, semantic_rank), strict=True)
    )
    if pixel.keys() != semantic.keys():
        content.refuse(f"expected the same layers twice, found {len(pixel)} pixel and {len(semantic)} semantic ones")
    pairs = {layer: _stack(content, layer, pixel[layer], semantic[layer]) for layer in pixel}
    rank = pixel_rank + semantic_rank
    return ImportedLora(
        pairs=pairs,
        metadata=LoraMetadata(
            base_layout=sd_layout(content, pairs),
            timestep=1,
            rank=rank,
            lora_alpha=float(rank),
            rule=RESIDUAL,
            base_model=BASE_MODEL,
            source="PiSA-SR",
            source_sha256=content.sha256,
            license="Apache-2.0 by its README; no licence file",
            parts={PIXEL: pixel_rank, SEMANTIC: semantic_rank},
        ),
    )


def _stack(content: Content, layer: str, first: LoraPair, second: LoraPair) -> LoraPair:
    """One pair that changes a weight as both do: their inner sizes one behind the other, in float32, factor 1."""
    sizes, others = ((p.up.shape[0], p.up.shape[2:], p.down.shape[1:]) for p in (first, second))
    if sizes != others:
        content.refuse(f"expected two LoRAs of one shape on {layer}, found others")
    up = torch.cat([pair.up.float() * (pair.alpha / pair.rank) for pair in (first, second)], dim=1)
    down = torch.cat([first.down.float(), second.down.float()])
    return LoraPair(down=down, up=up, alpha=float(down.shape[0]))
