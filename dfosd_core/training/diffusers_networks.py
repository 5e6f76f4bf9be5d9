"""diffusers' models of Stable Diffusion's layouts, without weights. The configurations live in `configs.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from ..lora.metadata import BaseLayout
from ..networks.norms import remove_self_attention, replace_group_norms
from ..networks.sd_configs import NORM_KEY, SELF_ATTENTION_KEY, Config, unet_config, vae_config


def build_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A UNet on the meta device: shapes and no weights."""
    return cast("UNet2DConditionModel", _build(UNet2DConditionModel, config))


def build_vae(config: Mapping[str, Any]) -> AutoencoderKL:
    """An autoencoder on the meta device: shapes and no weights."""
    return cast("AutoencoderKL", _build(AutoencoderKL, config))


def _build(kind: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    plain = {key: value for key, value in config.items() if key not in (NORM_KEY, SELF_ATTENTION_KEY)}
    with torch.device("meta"):
        model = cast("Any", kind).from_config(plain)
        if config.get(NORM_KEY) == "affine":
            replace_group_norms(model)
        if config.get(SELF_ATTENTION_KEY) == "none":
            remove_self_attention(model)
    return model.eval().requires_grad_(False)


def layout_of(unet: UNet2DConditionModel, vae: AutoencoderKL, prediction_type: str) -> BaseLayout:
    """What a LoRA must have been trained on to fit these models."""
    unet_facts, vae_facts = cast("Any", unet).config, cast("Any", vae).config
    return BaseLayout(
        context_dim=unet_facts.cross_attention_dim,
        in_channels=unet_facts.in_channels,
        out_channels=unet_facts.out_channels,
        latent_channels=vae_facts.latent_channels,
        latent_factor=2 ** (len(vae_facts.block_out_channels) - 1),
        block_out_channels=tuple(unet_facts.block_out_channels),
        prediction_type=cast("Any", prediction_type),
    )


__all__ = [
    "AutoencoderKL",
    "Config",
    "UNet2DConditionModel",
    "build_unet",
    "build_vae",
    "layout_of",
    "unet_config",
    "vae_config",
]
