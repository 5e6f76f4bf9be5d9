"""From x_hr to x_lq: the second-order degradation of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3).

Two rounds of blur, resize, noise and JPEG, the last JPEG before or after the final resize. The presets differ in
severity only; their numbers are in `presets.py`.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .blur_kernels import KERNEL_SIZE, Kernel, delta_kernel, random_kernel, sinc_kernel

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the degradation. Ranges are uniform."""

    blur_probability: float
    blur_sigma: Range
    """Standard deviation in pixels."""
    sinc_probability: float
    """How often the blur is a sinc kernel."""
    resize_probabilities: tuple[float, float, float]
    """Up, down, keep."""
    resize: Range
    """Smallest and largest factor."""
    gaussian_probability: float
    """Gaussian noise with this probability, otherwise Poisson noise."""
    gaussian_sigma: Range
    """Of 255."""
    poisson_scale: Range
    grey_noise_probability: float
    jpeg_quality: Range


@dataclass(frozen=True, kw_only=True)
class RealEsrgan:
    """Both rounds and the final sinc filter; a `Degradation`."""

    first: Round
    second: Round
    final_sinc_probability: float
    scale: int = 4

    def __call__(self, x_hr: Tensor, rng: np.random.Generator) -> Tensor:
        """Return x_lq (B, 3, H/scale, W/scale) of x_hr (B, 3, H, W), both in [0, 1] and x_lq rounded to 8 bit.

        H and W must be multiples of scale. Each image has its own degradation. Deterministic for an `rng` in the same
        state.
        """
        height, width = x_hr.shape[-2:]
        if height % self.scale or width % self.scale:
            raise ValueError(f"Expected sides that are multiples of {self.scale}, found {height}x{width}.")
        return torch.cat([self._degrade_one(x.unsqueeze(0), rng) for x in x_hr])

    def _degrade_one(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        size = (x.shape[-2] // self.scale, x.shape[-1] // self.scale)
        full = (x.shape[-2], x.shape[-1])
        x = _noise(_resize(_blur(x, self.first, rng), full, self.first, rng), self.first, rng)
        x = _jpeg(x, self.first, rng)
        x = _noise(_resize(_blur(x, self.second, rng), size, self.second, rng), self.second, rng)
        final = delta_kernel()
        if rng.random() < self.final_sinc_probability:
            final = sinc_kernel(rng.uniform(math.pi / 3, math.pi))
        if rng.random() < 0.5:
            x = _jpeg(_filter(_interpolate(x, size, rng), final), self.second, rng)
        else:
            x = _filter(_interpolate(_jpeg(x, self.second, rng), size, rng), final)
        return (x.clamp(0, 1) * 255).round() / 255


def _blur(x: Tensor, step: Round, rng: np.random.Generator) -> Tensor:
    if rng.random() >= step.blur_probability:
        return x
    if rng.random() < step.sinc_probability:
        return _filter(x, sinc_kernel(rng.uniform(math.pi / 3, math.pi)))
    return _filter(x, random_kernel(rng, step.blur_sigma))


def _filter(x: Tensor, kernel: Kernel) -> Tensor:
    weight = torch.from_numpy(kernel).to(x).view(1, 1, KERNEL_SIZE, KERNEL_SIZE).expand(x.shape[1], -1, -1, -1)
    pad = KERNEL_SIZE // 2
    mode = "reflect" if min(x.shape[-2:]) > pad else "replicate"
    return F.conv2d(F.pad(x, (pad, pad, pad, pad), mode=mode), weight, groups=x.shape[1])


def _resize(x: Tensor, size: tuple[int, int], step: Round, rng: np.random.Generator) -> Tensor:
    """Resize to a random factor of `size`: up, down or not at all."""
    up, down, _ = step.resize_probabilities
    draw = rng.random()
    factor = 1.0
    if draw < up:
        factor = rng.uniform(1.0, step.resize[1])
    elif draw < up + down:
        factor = rng.uniform(step.resize[0], 1.0)
    return _interpolate(x, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))), rng)


def _interpolate(x: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Area, bilinear or bicubic with equal chances; not antialiased, as OpenCV does it in Real-ESRGAN."""
    mode = ("area", "bilinear", "bicubic")[int(rng.integers(3))]
    return F.interpolate(x, size=size, mode=mode, align_corners=None if mode == "area" else False)


def _noise(x: Tensor, step: Round, rng: np.random.Generator) -> Tensor:
    grey = rng.random() < step.grey_noise_probability
    shape = (1, 1, *x.shape[-2:]) if grey else tuple(x.shape)
    if rng.random() < step.gaussian_probability:
        noise = rng.standard_normal(shape) * (rng.uniform(*step.gaussian_sigma) / 255)
    else:
        signal = x.clamp(0, 1).mean(1, keepdim=True) if grey else x.clamp(0, 1)
        levels = 2.0 ** math.ceil(math.log2(max(2, len(torch.unique((signal * 255).round())))))
        clean = signal.double().numpy()
        noise = (rng.poisson(clean * levels) / levels - clean) * rng.uniform(*step.poisson_scale)
    return (x + torch.from_numpy(noise).to(x)).clamp(0, 1)


def _jpeg(x: Tensor, step: Round, rng: np.random.Generator) -> Tensor:
    pixels = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(rng.uniform(*step.jpeg_quality)))
    decoded = torch.from_numpy(np.array(Image.open(buffer)))
    return decoded.permute(2, 0, 1).unsqueeze(0).to(x) / 255
