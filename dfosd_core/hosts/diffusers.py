"""The standalone host: diffusers' own UNet2DConditionModel and AutoencoderKL, from local files only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..lora.file import DfosdLora
from ..lora.metadata import BaseLayout
from ..training.diffusers_base import read_base
from ..training.diffusers_networks import AutoencoderKL, UNet2DConditionModel
from .network_host import DEFAULT_BASE, DEFAULT_LORA, DEFAULT_WEIGHTS, NetworkHost, default_parts, fast_dtype


class DiffusersHost(NetworkHost[UNet2DConditionModel, AutoencoderKL]):
    """A `Host` over two diffusers models."""

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL, layout: BaseLayout) -> None:
        facts = cast("Any", vae).config
        scaling, shift = float(facts.scaling_factor), float(facts.get("shift_factor") or 0.0)
        super().__init__(unet, vae, layout, scaling_factor=scaling, shift_factor=shift)

    def _encode(self, x: Tensor) -> Tensor:
        return cast("Any", self.vae).encode(x).latent_dist.mode()

    def _decode(self, latent: Tensor) -> Tensor:
        return cast("Any", self.vae).decode(latent).sample

    def _predict(self, z: Tensor, t: int, context: Tensor) -> Tensor:
        return cast("Any", self.unet)(z, t, encoder_hidden_states=context).sample


def load_base(
    path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> DiffusersHost:
    """A host over a diffusers folder or a single-file checkpoint (`.safetensors`, `.ckpt`): UNet and VAE
    only, no network.

    Raises BaseModelMismatchError when the file is missing, damaged, unsafe or no model DFOSD can use.
    """
    return DiffusersHost(*read_base(path, dtype, device))


def load_default(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", weights: Path = DEFAULT_WEIGHTS
) -> tuple[DiffusersHost, DfosdLora]:
    """The embedded small base and its LoRA. Raises BaseModelMismatchError when they were left out of the
    installation.
    """
    base, lora = default_parts(weights)
    return load_base(base, dtype, device), lora


__all__ = [
    "DEFAULT_BASE",
    "DEFAULT_LORA",
    "DEFAULT_WEIGHTS",
    "DiffusersHost",
    "fast_dtype",
    "load_base",
    "load_default",
]
