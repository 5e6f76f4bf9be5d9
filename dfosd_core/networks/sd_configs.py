"""Stable Diffusion's layouts as diffusers configurations.

The only facts here are the published ones: SD 1.x has 8 heads at every level and 1x1 convolutions around its
transformers; SD 2.x has heads 64 wide and linear projections. Both share one autoencoder.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
NORM_KEY = "dfosd_norm"
"""`affine`: norms without statistics (`norms.py`)."""
SELF_ATTENTION_KEY = "dfosd_self_attention"
"""`none`: the transformers attend to the prompt only (`norms.py`)."""
PADDING_KEY = "dfosd_padding"
"""`replicate`: convolutions see their map's outermost values repeated instead of zeros (`borders.py`)."""
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
    *, block_out_channels: tuple[int, ...] = (128, 256, 512, 512), layers_per_block: int = 2, latent_channels: int = 4
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
