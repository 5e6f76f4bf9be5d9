"""The metrics of the field: which there are, how they are printed, and the three that need no other library.

PSNR-Y and SSIM-Y follow pyiqa's conventions for `test_y_channel`, in which the papers report them; pyiqa itself is
`library.py`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dfosd_core.training.dists import Dists

Scores = dict[str, float]
"""{metric: value}"""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric's numbers mean."""

    decimals: int
    is_higher_better: bool
    needs_reference: bool = True
    pyiqa: str | None = None
    """What pyiqa calls it; None: computed here only."""


METRICS: dict[str, Metric] = {
    "PSNR-Y": Metric(decimals=2, is_higher_better=True),
    "SSIM-Y": Metric(decimals=4, is_higher_better=True),
    "LPIPS": Metric(decimals=4, is_higher_better=False, pyiqa="lpips"),
    "DISTS": Metric(decimals=4, is_higher_better=False, pyiqa="dists"),
    "FID": Metric(decimals=2, is_higher_better=False, pyiqa="fid"),
    "NIQE": Metric(decimals=4, is_higher_better=False, needs_reference=False, pyiqa="niqe"),
    "MUSIQ": Metric(decimals=2, is_higher_better=True, needs_reference=False, pyiqa="musiq"),
    "MANIQA": Metric(decimals=4, is_higher_better=True, needs_reference=False, pyiqa="maniqa-pipal"),
    "CLIPIQA": Metric(decimals=4, is_higher_better=True, needs_reference=False, pyiqa="clipiqa"),
}
"""In the order of tables. LPIPS is AlexNet's and MANIQA is PIPAL's, as in the tables of OSEDiff and its followers."""

FORMATS: dict[str, Callable[[float], str]] = {
    name: f"{{:.{metric.decimals}f}}".format for name, metric in METRICS.items()
}
"""How each is printed."""


@torch.inference_mode()
def score(image: Tensor, reference: Tensor, dists: Dists | None) -> Scores:
    """All metrics of two images (1, 3, H, W) in [0, 1]; DISTS only where one is given."""
    scores = {"PSNR-Y": psnr_y(image, reference), "SSIM-Y": ssim_y(image, reference)}
    if dists is not None:
        device = dists.mean.device
        scores["DISTS"] = float(dists(image.to(device), reference.to(device)))
    return scores


def luma(image: Tensor) -> Tensor:
    """Y (ITU-R BT.601, 16..235 over 255) (B, 1, H, W) of RGB (B, 3, H, W) in [0, 1], as MATLAB's rgb2ycbcr has it."""
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return ((image * weights).sum(1, keepdim=True) + 16) / 255


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images."""
    mse = float((image.double() - reference.double()).square().mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def psnr_y(image: Tensor, reference: Tensor) -> float:
    """PSNR of the Y channels in dB."""
    return psnr(luma(image), luma(reference))


def ssim_y(image: Tensor, reference: Tensor) -> float:
    """SSIM of the Y channels (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, no padding.

    As pyiqa has it: Y in whole levels, and negative products of contrast and structure count as 0.
    """
    x, y = ((luma(each) * 255).round().double() for each in (image, reference))
    mu_x, mu_y = _window(x), _window(y)
    var_x = _window(x * x) - mu_x**2
    var_y = _window(y * y) - mu_y**2
    covariance = _window(x * y) - mu_x * mu_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = ((2 * covariance + c2) / (var_x + var_y + c2)).clamp(min=0)
    return float(((2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1) * structure).mean())


def _window(x: Tensor) -> Tensor:
    """The local mean under the Gaussian window, rows before columns."""
    taps = torch.exp(-((torch.arange(11, dtype=x.dtype) - 5) ** 2) / (2 * 1.5**2)).to(x.device)
    taps = taps / taps.sum()
    return F.conv2d(F.conv2d(x, taps.view(1, 1, 1, 11)), taps.view(1, 1, 11, 1))


def mean(scores: Sequence[Scores]) -> Scores:
    """The mean of each metric."""
    return {metric: float(np.mean([one[metric] for one in scores])) for metric in scores[0]}
