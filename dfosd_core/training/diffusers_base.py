"""A base model from disk as diffusers' models."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from ..lora.metadata import BaseLayout
from ..networks.reading import WEIGHT_FILES, Builders, read_networks
from .diffusers_networks import AutoencoderKL, UNet2DConditionModel, build_unet, build_vae, layout_of


class Base(NamedTuple):
    """A base model in memory, in evaluation mode, without gradients."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    layout: BaseLayout


def read_base(path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Base:
    """Read a base from a diffusers folder (`unet/`, `vae/`), a `.safetensors` or a `.ckpt` file.

    Raises BaseModelMismatchError, in one line, for anything else.
    """
    builders = Builders(lambda config, _: build_unet(config), lambda config, _: build_vae(config))
    unet, vae, prediction_type = read_networks(path, builders, dtype, device)
    return Base(unet, vae, layout_of(unet, vae, prediction_type))


__all__ = ["WEIGHT_FILES", "Base", "read_base"]
