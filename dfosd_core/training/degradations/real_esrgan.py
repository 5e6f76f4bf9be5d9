"""From x_hr to x_lq: the second-order degradation of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3).

Two rounds of blur, resize, noise and JPEG, the last JPEG before or after the final resize with its filter. The
presets differ in numbers, which are in `presets.py`, and in that filter. Everything but the noise itself is drawn
first, so that what is drawn can be looked at and counted without an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .blur_kernels import (
    KERNEL_SIZES,
    Blur,
    Range,
    Sharpening,
    Sinc,
    draw_blur,
    draw_final_sinc,
    draw_sharpening,
    draw_sinc,
)
from .operations import MODES, Noise, compressed, filtered, noisy, resized


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of the degradation. Ranges are uniform, from small to large."""

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
    poisson_levels: int | None = None
    """See `Noise.levels`."""
    grey_noise_probability: float
    jpeg_quality: Range
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES
    """Taps of the blur, with equal chances."""
    has_even_betas: bool = False
    """The blur's exponent is uniform over its range; otherwise half of them are below 1, as published."""

    def __post_init__(self) -> None:
        for name in ("blur_sigma", "resize", "gaussian_sigma", "poisson_scale", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"Expected {name} from small to large, found {low} and {high}.")

    def draw(self, rng: np.random.Generator) -> RoundDraw:
        """What happens to one image."""
        blur: Blur | Sinc | None = None
        if rng.random() < self.blur_probability:
            is_sinc = rng.random() < self.sinc_probability
            blur = (
                draw_sinc(rng, self.kernel_sizes)
                if is_sinc
                else draw_blur(rng, self.blur_sigma, self.kernel_sizes, has_even_betas=self.has_even_betas)
            )
        return RoundDraw(
            blur=blur,
            factor=self._draw_factor(rng),
            mode=_draw_mode(rng),
            noise=self._draw_noise(rng),
            jpeg_quality=round(rng.uniform(*self.jpeg_quality)),
        )

    def _draw_factor(self, rng: np.random.Generator) -> float:
        up, down, _ = self.resize_probabilities
        draw = rng.random()
        if draw < up:
            return rng.uniform(1.0, self.resize[1])
        return rng.uniform(self.resize[0], 1.0) if draw < up + down else 1.0

    def _draw_noise(self, rng: np.random.Generator) -> Noise:
        is_gaussian = bool(rng.random() < self.gaussian_probability)
        return Noise(
            is_gaussian=is_gaussian,
            strength=rng.uniform(*(self.gaussian_sigma if is_gaussian else self.poisson_scale)),
            is_grey=bool(rng.random() < self.grey_noise_probability),
            levels=self.poisson_levels,
        )


@dataclass(frozen=True, kw_only=True)
class RoundDraw:
    """A round as it was drawn for one image."""

    blur: Blur | Sinc | None
    factor: float
    """Of the resize; 1: none."""
    mode: str
    """One of MODES."""
    noise: Noise
    jpeg_quality: int


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The whole degradation of one image."""

    first: RoundDraw
    second: RoundDraw
    final_mode: str
    """Of the resize to the final size."""
    final_filter: Sinc | Sharpening | None
    """After that resize."""
    jpeg_last: bool
    """The second JPEG comes after resize and filter, otherwise before them."""


@dataclass(frozen=True, kw_only=True)
class RealEsrgan:
    """Both rounds and the final filter; a `Degradation`."""

    first: Round
    second: Round
    final_sinc_probability: float
    final_sharpening: Range | None = None
    """Amounts of unsharp masking, which then takes the place of the final sinc filter. Not in Real-ESRGAN."""
    scale: int = 4

    def __call__(self, x_hr: Tensor, rng: np.random.Generator) -> Tensor:
        """Return x_lq (B, 3, H/scale, W/scale) of x_hr (B, 3, H, W), both in [0, 1] and x_lq rounded to 8 bit.

        H and W must be multiples of scale. Each image has its own degradation. Deterministic for an `rng` in the same
        state.
        """
        height, width = x_hr.shape[-2:]
        if height % self.scale or width % self.scale:
            raise ValueError(f"Expected sides that are multiples of {self.scale}, found {height}x{width}.")
        return torch.cat([self.apply(x.unsqueeze(0), self.draw(rng), rng) for x in x_hr])

    def draw(self, rng: np.random.Generator) -> Draw:
        """What happens to one image."""
        return Draw(
            first=self.first.draw(rng),
            second=self.second.draw(rng),
            final_mode=_draw_mode(rng),
            final_filter=self._draw_final_filter(rng),
            jpeg_last=bool(rng.random() < 0.5),
        )

    def _draw_final_filter(self, rng: np.random.Generator) -> Sinc | Sharpening | None:
        if self.final_sharpening is not None:
            return draw_sharpening(rng, self.final_sharpening)
        return draw_final_sinc(rng) if rng.random() < self.final_sinc_probability else None

    def apply(self, x: Tensor, draw: Draw, rng: np.random.Generator) -> Tensor:
        """Do it to x (1, 3, H, W); the noise comes from `rng`."""
        full = (x.shape[-2], x.shape[-1])
        size = (full[0] // self.scale, full[1] // self.scale)
        x = compressed(_round(x, full, draw.first, rng), draw.first.jpeg_quality)
        x = _round(x, size, draw.second, rng)
        if not draw.jpeg_last:
            x = compressed(x, draw.second.jpeg_quality)
        # A filter before the resize, or the JPEG between the two, leaves twisted lines (Real-ESRGAN's authors).
        x = resized(x, size, draw.final_mode)
        if draw.final_filter is not None:
            x = filtered(x, draw.final_filter.kernel())
        if draw.jpeg_last:
            x = compressed(x, draw.second.jpeg_quality)
        return (x.clamp(0, 1) * 255).round() / 255


def _round(x: Tensor, size: tuple[int, int], draw: RoundDraw, rng: np.random.Generator) -> Tensor:
    """Blur, resize to the drawn factor of `size`, noise."""
    if draw.blur is not None:
        x = filtered(x, draw.blur.kernel())
    height, width = (max(1, int(edge * draw.factor)) for edge in size)
    return noisy(resized(x, (height, width), draw.mode), draw.noise, rng)


def _draw_mode(rng: np.random.Generator) -> str:
    return MODES[int(rng.integers(len(MODES)))]
