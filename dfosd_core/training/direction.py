"""The direction term: it takes back power of fine detail where the original has none in that direction.

A perceptual term rewards fine power, wherever that comes from. A small UNet places it along the axes of its own grid,
and the picture looks woven, although no frequency has more power than in the original. What gives the weave away is how
its power is spread over directions. So, in windows of 32 pixels, each direction's share of the power in a ring of
frequencies is compared with the share that the original allows it. This is ours, not the paper's.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_PX = 32
STRIDE_PX = 16
DIRECTIONS = 8
COARSE_RING = (0.045, 0.11)
FINE_RINGS = ((0.16, 0.23), (0.22, 0.32))
"""Inner and outer radius of rings of frequencies, in cycles per pixel."""
COARSE_SHARE = 1.3
"""How much of its coarse ring's share the original allows a direction: detail along an edge runs as the edge does."""
MARGIN = 0.5
"""What the logarithm of a share may exceed the logarithm of the allowed one by: shares of few bins are uncertain."""
QUANTIZATION = (0.5 / 255) ** 2
"""Added to each direction's power, so that what 8 bits cannot hold has no direction."""


def direction_excess(image: Tensor, reference: Tensor) -> Tensor:
    """How far the directions of fine detail exceed what `reference` allows them: a scalar of at least 0, float32.

    The mean over windows, fine rings and directions of max(0, log share - log allowed - MARGIN). Allowed is the largest
    of the reference's share, COARSE_SHARE times its share in the coarse ring, and an even share. Power of the mean of
    the channels, under a Hann window, its own mean removed.

    image, reference: (B, 3, H, W) in [0, 1], float32, H and W at least WINDOW_PX.
    """
    share = _shares(image)[..., 1:, :]
    with torch.no_grad():
        wanted = _shares(reference)
        coarse, fine = wanted[..., :1, :], wanted[..., 1:, :]
        allowed = torch.maximum(fine, COARSE_SHARE * coarse).clamp_min(1 / DIRECTIONS)
    return F.relu(share.log() - allowed.log() - MARGIN).mean()


def _shares(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> each direction's share of a ring's power: (B, rows, columns, rings, directions)."""
    window = torch.hann_window(WINDOW_PX, device=x.device)
    window = window[:, None] * window
    patches = x.mean(1).unfold(1, WINDOW_PX, STRIDE_PX).unfold(2, WINDOW_PX, STRIDE_PX)
    patches = (patches - patches.mean((-2, -1), keepdim=True)) * window
    power = torch.fft.fft2(patches).abs().square() / window.square().sum()
    sectors = _sectors().to(x.device)
    of_sectors = torch.einsum("bijuv,rduv->bijrd", power, sectors) / sectors.sum((2, 3)) + QUANTIZATION
    return of_sectors / of_sectors.sum(-1, keepdim=True)


@cache
def _sectors() -> Tensor:
    """Weights of the frequencies in each ring and direction: (rings, directions, WINDOW_PX, WINDOW_PX).

    A frequency between two directions counts for both, in proportion; its weights add up to one.
    """
    frequency = torch.fft.fftfreq(WINDOW_PX)
    fy, fx = frequency[:, None], frequency[None, :]
    radius, position = torch.hypot(fy, fx), torch.atan2(fy, fx).remainder(math.pi) * DIRECTIONS / math.pi
    rings = torch.stack([(radius >= inner) & (radius < outer) for inner, outer in (COARSE_RING, *FINE_RINGS)])
    around = (position - torch.arange(DIRECTIONS)[:, None, None] + DIRECTIONS / 2).remainder(DIRECTIONS)
    near = (1 - (around - DIRECTIONS / 2).abs()).clamp_min(0)
    return rings[:, None] * near
