"""Image metrics as the field reports them: on the Y channel of YCbCr (ITU-R BT.601, 16..235), of [0, 1] tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def luma(image: Tensor) -> Tensor:
    """Y (B, 1, H, W) in [0, 1] of RGB (B, 3, H, W) in [0, 1], as MATLAB's rgb2ycbcr has it."""
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
    """SSIM of the Y channels (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, no padding."""
    x, y = luma(image).double() * 255, luma(reference).double() * 255
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    mu_x, mu_y = F.conv2d(x, window), F.conv2d(y, window)
    var_x = F.conv2d(x * x, window) - mu_x**2
    var_y = F.conv2d(y * y, window) - mu_y**2
    covariance = F.conv2d(x * y, window) - mu_x * mu_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mu_x * mu_y + c1) * (2 * covariance + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return float(score.mean())
