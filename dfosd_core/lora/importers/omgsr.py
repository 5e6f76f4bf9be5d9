"""OMGSR-S (Wu et al., arXiv 2508.08227): a folder with `unet_lora_adapter` and `vae_encoder_lora_adapter` by peft.

LoRAs on the UNet and on the VAE's encoder, whose layers are named from the encoder on; rank and alpha stand in each
folder's `adapter_config.json`. Timestep 273, noise prediction, empty prompt. OMGSR-F, in folders of other names, is
for Flux.

By its `train/train_omgsr_s.py` (layers, alpha, folders), `configs/omgsr_s_512.yml` (ranks, timestep, prompt) and
`infer/omgsr_s_infer_model.py` (rule). There is no licence file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..file import LoraPair
from ..metadata import LoraMetadata
from ..names import UNET_PREFIX, VAE_PREFIX
from .content import BASE_MODEL, Content, ImportedLora, peft_pairs, sd_layout
from .peft_settings import ADAPTER_CONFIG, unusual_setting

UNET, ENCODER = "unet_lora_adapter", "vae_encoder_lora_adapter"
UNET_LAYERS, ENCODER_LAYERS = 194, 31


def detect(content: Content) -> bool:
    """The folders' names are the content's: `FOLDER` holds the tensors, `FOLDER/adapter_config.json` the settings."""
    return UNET in content.values and ENCODER in content.values


def read(content: Content) -> ImportedLora:
    """Raises LoraFormatError for a folder that is incomplete or damaged."""
    pairs, encoder = _pairs(content, UNET, UNET_PREFIX), _pairs(content, ENCODER, f"{VAE_PREFIX}_encoder")
    layout = sd_layout(content, pairs, UNET_LAYERS)
    if len(pairs) == UNET_LAYERS and len(encoder) != ENCODER_LAYERS:
        content.refuse(f"expected {ENCODER_LAYERS} layers in {ENCODER}, found {len(encoder)}")
    first = next(iter(pairs.values()))
    return ImportedLora(
        pairs=pairs | encoder,
        metadata=LoraMetadata(
            base_layout=layout,
            timestep=273,
            rank=max(first.rank, *(pair.rank for pair in encoder.values())),
            lora_alpha=first.alpha,
            base_model=BASE_MODEL,
            source="OMGSR-S",
            source_sha256=content.sha256,
            license="none stated",
        ),
    )


def _pairs(content: Content, folder: str, prefix: str) -> dict[str, LoraPair]:
    settings = cast("Mapping[str, Any]", content.values[f"{folder}/{ADAPTER_CONFIG}"])
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or alpha != rank:
        content.refuse(f"expected r and an equal lora_alpha in {folder}/{ADAPTER_CONFIG}, found {rank!r} and {alpha!r}")
    if other := unusual_setting(settings):
        content.refuse(f"expected a plain LoRA in {folder}, found {other} {str(settings[other])[:40]}")
    return peft_pairs(content, content.tensors(folder), rank=rank, alpha=float(rank), prefix=prefix)
