"""How far the power spectrum of a result is from the photograph's: too smooth, too noisy, or with a grid in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .pictures import Result, levels

BANDS = 24
"""Rings of equal width, from frequency 0 to Nyquist's along an axis."""
ROUNDING = 1 / 12
"""Power of rounding to whole levels: nothing below it means anything."""


def spectrum_distance(results: Sequence[Result]) -> float:
    """Root mean square over BANDS of the difference in dB, averaged over the pictures. 0: equal spectra."""
    differences = [radial_spectrum(result.x_sr) - radial_spectrum(result.x_hr) for result in results]
    return float(torch.stack([difference.square().mean().sqrt() for difference in differences]).mean())


def radial_spectrum(image: Tensor) -> Tensor:
    """Mean power of the luma in each ring, (BANDS,) in dB over a level squared, of (1, 3, H, W) in [0, 1].

    Under a Hann window, so that the step from one border to the other does not count as detail.
    """
    grey = levels(image)
    height, width = grey.shape
    window = torch.outer(
        torch.hann_window(height, periodic=False, dtype=grey.dtype),
        torch.hann_window(width, periodic=False, dtype=grey.dtype),
    )
    window = window / window.square().mean().sqrt()
    power = torch.fft.fft2((grey - grey.mean()) * window).abs().square() / grey.numel()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    ring = (radius * 2 * BANDS).long().flatten()
    inside = ring < BANDS
    total, count = (
        torch.zeros(BANDS, dtype=grey.dtype).index_add_(0, ring[inside], values[inside])
        for values in (power.flatten(), torch.ones_like(power).flatten())
    )
    return 10 * torch.log10(total / count.clamp(min=1) + ROUNDING)
