"""Random blur kernels of the Real-ESRGAN degradation (Wang et al. 2021, arXiv 2107.10833, section 3.1)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

KERNEL_SIZE = 21
"""Every kernel is 21 taps wide; smaller ones are zero outside."""
KINDS = ("gaussian", "generalized", "plateau")
KIND_PROBABILITIES = (0.70, 0.15, 0.15)
"""Of each kind, isotropic with ISOTROPIC probability: together the paper's .45/.25/.12/.03/.12/.03."""
ISOTROPIC = (0.45 / 0.70, 0.12 / 0.15, 0.12 / 0.15)

Kernel = NDArray[np.float64]


def random_kernel(
    rng: np.random.Generator,
    sigma: tuple[float, float],
    beta_generalized: tuple[float, float] = (0.5, 4.0),
    beta_plateau: tuple[float, float] = (1.0, 2.0),
) -> Kernel:
    """Draw a blur kernel (21, 21) that sums to 1; `sigma` is the range of standard deviations in pixels."""
    kind = int(rng.choice(len(KINDS), p=KIND_PROBABILITIES))
    sigma_x = rng.uniform(*sigma)
    isotropic = rng.random() < ISOTROPIC[kind]
    sigma_y = sigma_x if isotropic else rng.uniform(*sigma)
    distance = _mahalanobis(sigma_x, sigma_y, 0.0 if isotropic else rng.uniform(-math.pi, math.pi))
    if KINDS[kind] == "gaussian":
        kernel = np.exp(-0.5 * distance)
    elif KINDS[kind] == "generalized":
        kernel = np.exp(-0.5 * distance ** rng.uniform(*beta_generalized))
    else:
        kernel = 1 / (1 + distance ** rng.uniform(*beta_plateau))
    return kernel / kernel.sum()


def sinc_kernel(cutoff: float) -> Kernel:
    """The circular low pass with cut-off frequency `cutoff` in (0, pi]: it rings, as sharpened photographs do.

    k(i, j) = cutoff / (2 pi r) J1(cutoff r), cutoff^2 / (4 pi) in the centre (Real-ESRGAN, eq. 6).
    """
    x, y = _grid()
    r = np.hypot(x, y)
    centre = KERNEL_SIZE // 2
    r[centre, centre] = 1.0
    kernel = cutoff / (2 * math.pi * r) * _bessel_j1(cutoff * r)
    kernel[centre, centre] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def delta_kernel() -> Kernel:
    """The kernel that changes nothing."""
    kernel = np.zeros((KERNEL_SIZE, KERNEL_SIZE))
    kernel[KERNEL_SIZE // 2, KERNEL_SIZE // 2] = 1.0
    return kernel


def _grid() -> tuple[Kernel, Kernel]:
    axis = np.arange(KERNEL_SIZE, dtype=np.float64) - KERNEL_SIZE // 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def _mahalanobis(sigma_x: float, sigma_y: float, theta: float) -> Kernel:
    """The squared distance from the centre in units of the two deviations, the first along `theta`."""
    x, y = _grid()
    along = x * math.cos(theta) + y * math.sin(theta)
    across = -x * math.sin(theta) + y * math.cos(theta)
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _bessel_j1(x: Kernel) -> Kernel:
    """J1(x) = 1/pi integral_0^pi cos(s - x sin s) ds by the midpoint rule: exact to 1e-12 for |x| < 60."""
    s = (np.arange(128) + 0.5) * math.pi / 128
    return np.cos(s - x[..., None] * np.sin(s)).mean(-1)
