"""Edge-aware DISTS: DISTS of the images plus DISTS of their Sobel edge maps (arXiv 2410.04224, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dists import Dists

LUMINANCE = (0.2989, 0.587, 0.114)
"""Weights of the grey channel (ITU-R BT.601), as three of the four public codes of the paper's group have it."""


def sobel(image: Tensor) -> Tensor:
    """Return the edge strength S(x) = sqrt((Gx*x)^2 + (Gy*x)^2 + 1e-6) as (B, 1, H, W) of x (B, 3, H, W) in [0, 1].

    Zero padding, no normalisation: 0.001 on flat ground, 4 beside a unit step.
    """
    # Sums of shifted maps: a kernel made of Python's numbers would be copied to the device, and waited for.
    red, green, blue = image.split(1, 1)
    grey = F.pad(LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue, (1, 1, 1, 1))
    smooth_rows = grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]
    smooth_columns = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    gx, gy = smooth_rows[..., 2:] - smooth_rows[..., :-2], smooth_columns[..., 2:, :] - smooth_columns[..., :-2, :]
    return (gx.square() + gy.square() + 1e-6).sqrt()


class EaDists(nn.Module):
    """L_EA-DISTS(a, b) = DISTS(a, b) + DISTS(S(a), S(b))."""

    def __init__(self, dists: Dists) -> None:
        super().__init__()
        self.dists = dists

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the loss of two batches (B, 3, H, W) in [0, 1] as a scalar."""
        # One batch for both terms: the mean over twice the batch is half their sum.
        return 2 * self.dists(_with_edges(image.float()), _with_edges(reference.float()))


def _with_edges(image: Tensor) -> Tensor:
    return torch.cat((image, sobel(image).expand_as(image)))
