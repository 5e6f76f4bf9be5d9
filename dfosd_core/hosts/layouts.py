"""Stable Diffusion's layouts as diffusers configurations, and models of them without weights.

The only facts here are the published ones: SD 1.x has 8 heads at every level and 1x1 convolutions around its
transformers; SD 2.x has heads 64 wide and linear projections. Both share one autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from ..lora.metadata import BaseLayout
from .local_norm import replace_group_norms

Config = dict[str, Any]
NORM_KEY = "dfosd_norm"
SD_SCALING_FACTOR = 0.18215
SD2_HEAD_WIDTH = 64
SD1_HEADS = 8


def unet_config(
    *,
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
    layers_per_block: int = 2,
    attention_levels: tuple[bool, ...] = (True, True, True, False),
    context_dim: int = 1024,
    in_channels: int = 4,
    out_channels: int = 4,
    linear_projection: bool = True,
) -> Config:
    """The configuration of an SD UNet; the defaults are SD 2.1's (and 2.1-base's: they share the layout)."""
    heads = [width // SD2_HEAD_WIDTH for width in block_out_channels] if linear_projection else SD1_HEADS
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": block_out_channels,
        "layers_per_block": layers_per_block,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention_levels),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention_levels)),
        "cross_attention_dim": context_dim,
        # Named "dim" by an old mistake of diffusers: it is the number of heads.
        "attention_head_dim": heads,
        "use_linear_projection": linear_projection,
    }


def vae_config(
    *,
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
    layers_per_block: int = 2,
    latent_channels: int = 4,
) -> Config:
    """The configuration of an SD autoencoder; the defaults are those of all SD 1.x and 2.x."""
    levels = len(block_out_channels)
    return {
        "block_out_channels": block_out_channels,
        "layers_per_block": layers_per_block,
        "latent_channels": latent_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "scaling_factor": SD_SCALING_FACTOR,
    }


def build_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A UNet on the meta device: shapes and no weights."""
    return cast("UNet2DConditionModel", _build(UNet2DConditionModel, config))


def build_vae(config: Mapping[str, Any]) -> AutoencoderKL:
    """An autoencoder on the meta device: shapes and no weights."""
    return cast("AutoencoderKL", _build(AutoencoderKL, config))


def _build(kind: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    plain = {key: value for key, value in config.items() if key != NORM_KEY}
    with torch.device("meta"):
        model = cast("Any", kind).from_config(plain)
        if config.get(NORM_KEY) == "affine":
            replace_group_norms(model)
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
