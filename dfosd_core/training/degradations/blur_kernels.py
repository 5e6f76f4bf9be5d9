"""Random kernels of the Real-ESRGAN degradation (Wang et al. 2021, arXiv 2107.10833, sections 3.1 and 3.2).

Numbers that the paper leaves open are those of its authors' RealESRGANDataset and train_realesrnet_x4plus.yml; the
table in docs/degradation.md compares them with ours. The sharpening is not Real-ESRGAN's: only `camera` has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KERNEL_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)
"""Taps, with equal chances."""
SHAPES = ("gaussian", "generalized", "plateau")
SHAPE_PROBABILITIES = (0.70, 0.15, 0.15)
ISOTROPIC = (0.45 / 0.70, 0.12 / 0.15, 0.12 / 0.15)
"""Of each shape, the share with equal deviations: together the published .45/.25/.12/.03/.12/.03."""
BETAS = {"gaussian": (1.0, 1.0), "generalized": (0.5, 4.0), "plateau": (1.0, 2.0)}
"""Range of each shape's exponent. Half of the draws are below 1, half above; a plateau has beta 1 in the first half."""
SINC_CUTOFF = (math.pi / 3, math.pi)
SINC_CUTOFF_WIDE = (math.pi / 5, math.pi)
"""Of a blur with at least WIDE taps, which have room for the slower ringing."""
WIDE = 13
SHARPENING_SIGMA = (0.7, 1.5)
"""Deviation of the Gaussian, in pixels of x_lq."""

Range = tuple[float, float]
Kernel = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A blur with deviations in pixels, the first along theta (radians); beta 1 is the Gaussian of its family."""

    shape: str
    size: int
    sigma_x: float
    sigma_y: float
    theta: float
    beta: float

    def kernel(self) -> Kernel:
        """(size, size), sum 1."""
        x, y = _grid(self.size)
        along = x * math.cos(self.theta) + y * math.sin(self.theta)
        across = -x * math.sin(self.theta) + y * math.cos(self.theta)
        distance = ((along / self.sigma_x) ** 2 + (across / self.sigma_y) ** 2) ** self.beta
        kernel = 1 / (1 + distance) if self.shape == "plateau" else np.exp(-0.5 * distance)
        return kernel / kernel.sum()


@dataclass(frozen=True, kw_only=True)
class Sinc:
    """The circular low pass with cut-off frequency `cutoff` in (0, pi]: it rings, as sharpened photographs do."""

    size: int
    cutoff: float

    def kernel(self) -> Kernel:
        """(size, size), sum 1: cutoff / (2 pi r) J1(cutoff r), cutoff^2 / (4 pi) in the centre (eq. 6)."""
        x, y = _grid(self.size)
        r = np.hypot(x, y)
        centre = self.size // 2
        r[centre, centre] = 1.0
        kernel = self.cutoff / (2 * math.pi * r) * _bessel_j1(self.cutoff * r)
        kernel[centre, centre] = self.cutoff**2 / (4 * math.pi)
        return kernel / kernel.sum()


@dataclass(frozen=True, kw_only=True)
class Sharpening:
    """Unsharp masking, as cameras do it: the image plus `amount` of its difference to a Gaussian of `sigma` pixels."""

    amount: float
    sigma: float

    def kernel(self) -> Kernel:
        """(13, 13), sum 1."""
        x, y = _grid(13)
        gaussian = np.exp(-0.5 * (x**2 + y**2) / self.sigma**2)
        kernel = -self.amount * gaussian / gaussian.sum()
        kernel[6, 6] += 1 + self.amount
        return kernel


def draw_blur(
    rng: np.random.Generator, sigma: Range, sizes: Sequence[int] = KERNEL_SIZES, *, has_even_betas: bool = False
) -> Blur:
    """A blur; `sigma` is the range of standard deviations in pixels. has_even_betas: see `Round`."""
    size = sizes[int(rng.integers(len(sizes)))]
    kind = int(rng.choice(len(SHAPES), p=SHAPE_PROBABILITIES))
    sigma_x = sigma_y = rng.uniform(*sigma)
    theta = 0.0
    if rng.random() >= ISOTROPIC[kind]:
        sigma_y, theta = rng.uniform(*sigma), rng.uniform(-math.pi, math.pi)
    low, high = BETAS[SHAPES[kind]]
    if not has_even_betas:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    beta = rng.uniform(low, high)
    return Blur(shape=SHAPES[kind], size=size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, beta=beta)


def draw_sinc(rng: np.random.Generator, sizes: Sequence[int] = KERNEL_SIZES) -> Sinc:
    """A low pass in place of a blur."""
    size = sizes[int(rng.integers(len(sizes)))]
    return Sinc(size=size, cutoff=rng.uniform(*(SINC_CUTOFF if size < WIDE else SINC_CUTOFF_WIDE)))


def draw_final_sinc(rng: np.random.Generator, sizes: Sequence[int] = KERNEL_SIZES) -> Sinc:
    """The low pass at the end: the narrower range of cut-offs at every size."""
    return Sinc(size=sizes[int(rng.integers(len(sizes)))], cutoff=rng.uniform(*SINC_CUTOFF))


def draw_sharpening(rng: np.random.Generator, amount: Range) -> Sharpening:
    """A camera's sharpening; `amount` is its range."""
    return Sharpening(amount=rng.uniform(*amount), sigma=rng.uniform(*SHARPENING_SIGMA))


def _grid(size: int) -> tuple[Kernel, Kernel]:
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def _bessel_j1(x: Kernel) -> Kernel:
    """J1(x) = 1/pi integral_0^pi cos(s - x sin s) ds by the midpoint rule: exact to 1e-12 for |x| < 60."""
    s = (np.arange(128) + 0.5) * math.pi / 128
    return np.cos(s - x[..., None] * np.sin(s)).mean(-1)
