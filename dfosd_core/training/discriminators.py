"""The discriminators by name. Each gives logits = D(x, t_noise), and its `space` says what x is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .heads import HeadKind
from .nad import Nad, fresh_weights
from .pixel_discriminator import PixelDiscriminator
from .sdxl import SdxlDiscriminator

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

DiscriminatorKind = Literal["none", "nad", "nad_random", "sdxl", "pixel"]


def make_discriminator(
    kind: DiscriminatorKind,
    unet: UNet2DConditionModel,
    *,
    sdxl_unet: UNet2DConditionModel | None = None,
    prompt_embeds: Tensor | None,
    rank: int,
    lora_alpha: float,
    head: HeadKind,
    rng: torch.Generator,
) -> nn.Module | None:
    """`nad`: DFOSD's, on the base `unet`; `nad_random`: the same network from fresh weights; `sdxl`: D3SR's, on
    `sdxl_unet`; `pixel`: a CNN on images; `none`: None.

    prompt_embeds: start of the NAD's prompt. rng alone decides the start, so equal seeds give equal networks.
    Raises ConfigError where SDXL's UNet does not fit the base's latents.
    """
    if kind == "none":
        return None
    if kind == "pixel":
        return PixelDiscriminator(rng=rng)
    if kind == "nad_random":
        return Nad(fresh_weights(unet, rng), prompt_embeds=prompt_embeds, rank=None, head=head, rng=rng)
    if kind == "nad":
        return Nad(unet, prompt_embeds=prompt_embeds, rank=rank, lora_alpha=lora_alpha, head=head, rng=rng)
    assert sdxl_unet is not None, "the configuration was checked: kind sdxl comes with its UNet"
    ours, theirs = (cast("Any", u).config.in_channels for u in (unet, sdxl_unet))
    if ours != theirs:
        raise ConfigError(
            f"discriminator.kind sdxl judges latents of {theirs} channels, found a base with {ours}. "
            "Train on SD 2.1-base, or set discriminator.kind to nad."
        )
    return SdxlDiscriminator(sdxl_unet, rank=rank, lora_alpha=lora_alpha, head=head, rng=rng)
