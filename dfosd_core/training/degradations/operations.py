"""What a degradation does to an image (1, 3, H, W) in [0, 1]: filter, resize, add noise, compress."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .blur_kernels import Kernel

MODES = ("area", "bilinear", "bicubic")
"""Of `resized`; not antialiased, as in Real-ESRGAN."""
LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise as it was drawn."""

    is_gaussian: bool
    """Otherwise Poisson (shot) noise."""
    strength: float
    """Gaussian: the standard deviation, of 255. Poisson: a factor."""
    is_grey: bool
    """Equal in all channels."""
    levels: int | None = None
    """Poisson: photons of a white pixel. None: as many as the image has grey levels, rounded up to a power of 2."""


def filtered(x: Tensor, kernel: Kernel) -> Tensor:
    """Correlate with an odd kernel; the borders are mirrored. By FFT: with 21x21 taps ten times as fast as conv2d."""
    pad = kernel.shape[0] // 2
    mode = "reflect" if min(x.shape[-2:]) > pad else "replicate"
    padded = F.pad(x, (pad, pad, pad, pad), mode=mode)
    # What wraps around at the end of the transform lands outside the part that is kept.
    size = (_fast_length(padded.shape[-2]), _fast_length(padded.shape[-1]))
    weight = torch.fft.rfft2(torch.from_numpy(kernel).to(x), s=size).conj()
    whole = torch.fft.irfft2(torch.fft.rfft2(padded, s=size) * weight, s=size)
    return whole[..., : x.shape[-2], : x.shape[-1]]


@lru_cache(maxsize=4096)
def _fast_length(length: int) -> int:
    """The next length with no prime factor above 5."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """To (height, width), by one of MODES."""
    return F.interpolate(x, size=size, mode=mode, align_corners=None if mode == "area" else False)


def noisy(x: Tensor, noise: Noise, rng: np.random.Generator) -> Tensor:
    """Add noise and clamp to [0, 1]."""
    if noise.is_gaussian:
        shape = (1, 1, *x.shape[-2:]) if noise.is_grey else tuple(x.shape)
        added = rng.standard_normal(shape, dtype=np.float32) * np.float32(noise.strength / 255)
    else:
        added = _shot_noise(x, noise, rng) * np.float32(noise.strength)
    return (x + torch.from_numpy(added).to(x)).clamp_(0, 1)


def _shot_noise(x: Tensor, noise: Noise, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    signal = x.clamp(0, 1)
    if noise.is_grey:
        signal = (signal * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    pixels = _eight_bit(signal)
    levels = noise.levels
    if levels is None:
        levels = 2 ** math.ceil(math.log2(np.count_nonzero(np.bincount(pixels.ravel(), minlength=256))))
    clean = np.arange(256) / 255
    return (rng.poisson((clean * levels)[pixels]) / levels - clean[pixels]).astype(np.float32)


def compressed(x: Tensor, quality: int) -> Tensor:
    """Through a JPEG file with its colours at half the resolution."""
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(_eight_bit(x[0]).transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = torch.from_numpy(np.array(Image.open(buffer)))
    return decoded.permute(2, 0, 1).unsqueeze(0).to(x) / 255


def _eight_bit(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return (x.clamp(0, 1) * 255).round_().byte().numpy()
