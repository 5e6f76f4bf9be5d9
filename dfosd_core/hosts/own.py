"""The host that needs torch and safetensors only: our own UNet and VAE, for programs that bring no diffusers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..lora.file import DfosdLora
from ..networks.build import build_unet, build_vae
from ..networks.config import layout_of_plans
from ..networks.reading import Builders, read_networks
from ..networks.unet import PlainUnet
from ..networks.vae import PlainVae
from .network_host import DEFAULT_WEIGHTS, NetworkHost, default_parts, fast_dtype


class PlainHost(NetworkHost[PlainUnet, PlainVae]):
    """A `Host` over our own networks, the twin of `DiffusersHost`: the same weights give the same image."""

    def __init__(self, unet: PlainUnet, vae: PlainVae, prediction_type: str) -> None:
        layout = layout_of_plans(unet.plan, vae.plan, prediction_type)
        scaling, shift = vae.plan.scaling_factor, vae.plan.shift_factor
        super().__init__(unet, vae, layout, scaling_factor=scaling, shift_factor=shift)

    def _encode(self, x: Tensor) -> Tensor:
        return self.vae.encode(x)

    def _decode(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent)

    def _predict(self, z: Tensor, t: int, context: Tensor) -> Tensor:
        return self.unet(z, t, context)


def load_base(path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> PlainHost:
    """A host over a diffusers folder or a single-file checkpoint (`.safetensors`, `.ckpt`) of SD 1.x or 2.x.

    Raises BaseModelMismatchError when the file is missing, damaged, unsafe or no model DFOSD can use.
    """
    return PlainHost(*read_networks(path, Builders(build_unet, build_vae), dtype, device))


def load_default(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", weights: Path = DEFAULT_WEIGHTS
) -> tuple[PlainHost, DfosdLora]:
    """The embedded small base and its LoRA. Raises BaseModelMismatchError when they were left out of the
    installation.
    """
    base, lora = default_parts(weights)
    return load_base(base, dtype, device), lora


__all__ = ["PlainHost", "fast_dtype", "load_base", "load_default"]
