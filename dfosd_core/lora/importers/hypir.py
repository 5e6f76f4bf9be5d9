"""HYPIR (Lin et al., arXiv 2507.20590): `HYPIR_sd2.pth`, a flat state dict of a LoRA with rank 256 and alpha 256.

On every attention, feed-forward and convolution of the UNet but `conv_in`; the VAE is the base's. Timestep 200, noise
prediction; a caption as the prompt helps and is not needed. Its licence forbids commercial use.

By its `enhancer/sd2.py` (names, alpha, rule), `configs/sd2_gradio.yaml` (layers, rank, timestep) and LICENSE.
"""

from __future__ import annotations

from torch import Tensor

from ..metadata import LoraMetadata
from .content import BASE_MODEL, Content, ImportedLora, modules, peft_pairs, sd_layout

ADAPTER = "default"
RANK = 256
LAYERS = 257


def detect(content: Content) -> bool:
    """Most tensors are of peft's adapter `default` and of rank 256; a plain LoRA has no adapter in its names."""
    downs = {key: value for key, value in content.values.items() if ".lora_A." in key}
    ranked = [key for key, value in downs.items() if isinstance(value, Tensor) and value.shape[:1] == (RANK,)]
    return sum(key.endswith(f".{ADAPTER}.weight") for key in ranked) > len(downs) // 2


def read(content: Content) -> ImportedLora:
    """Raises LoraFormatError for a file that is incomplete or damaged."""
    tensors = content.tensors()
    more = modules(tensors).keys() - {ADAPTER}
    if more:
        content.refuse(f"expected the adapter {ADAPTER} alone, found {min(more) or 'tensors of none'} too")
    pairs = peft_pairs(content, tensors, rank=RANK, alpha=float(RANK))
    return ImportedLora(
        pairs=pairs,
        metadata=LoraMetadata(
            base_layout=sd_layout(content, pairs, LAYERS),
            timestep=200,
            rank=RANK,
            lora_alpha=float(RANK),
            base_model=BASE_MODEL,
            source="HYPIR",
            source_sha256=content.sha256,
            license="HYPIR's own, non-commercial",
        ),
    )
