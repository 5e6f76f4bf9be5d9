"""What a check of this folder runs on, and what it gives back."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dfosd_core.networks.sd_configs import Config, unet_config, vae_config

from ..random_base import write_random_base, write_zero_vgg

TINY_UNET = unet_config(block_out_channels=(64, 64), layers_per_block=1, attention_levels=(True, False), context_dim=24)
TINY_VAE = vae_config(block_out_channels=(32, 32), layers_per_block=1)


class Row(NamedTuple):
    """A line of a check's table."""

    cells: tuple[str, ...]
    ok: bool = True
    """Whether the card does what it should."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Device, sizes and files of a check."""

    device: torch.device
    work: Path
    """An empty folder for large files, which nobody keeps."""
    out: Path
    """A folder for what is to be looked at."""
    tiny: bool = False
    """With a base of two narrow levels and small images, to try the checks on a CPU."""
    vgg: Path | None = None
    """VGG16's convolutions, for DISTS with values."""
    photos: Path | None = None
    """Photographs to train on in place of the repository's."""
    minutes: float = 2.5
    """Length of the training."""

    @property
    def layout(self) -> tuple[Config, Config]:
        """UNet and VAE: Stable Diffusion 2.1's."""
        return (TINY_UNET, TINY_VAE) if self.tiny else (unet_config(), vae_config())

    @cached_property
    def base(self) -> Path:
        """A diffusers folder of `layout` with random weights, written at its first use."""
        return write_random_base(self.work / "base", *self.layout)

    @cached_property
    def zero_vgg(self) -> Path:
        """VGG16's shapes without values."""
        return write_zero_vgg(self.work / "vgg.safetensors")

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def empty(self) -> None:
        """Give the device's unused memory back, so that the next peak is the next one's."""
        gc.collect()  # networks refer to themselves
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def exact(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Inside the `with` block float32 is float32: by default cuDNN multiplies TF32, with 10 bits of mantissa."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if dtype == torch.float32 else nullcontext()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of `expected`; infinite where `found` is not finite."""
    if not found.isfinite().all():
        return float("inf")
    difference = found.double().cpu() - expected.double().cpu()
    return float(difference.square().mean().sqrt() / expected.double().square().mean().sqrt().cpu())
