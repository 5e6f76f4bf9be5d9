"""DISTS' two operations beside VGG's convolutions, with backward passes of their own.

Left to autograd the loss takes a fifth longer on a CPU: the backward of a depthwise convolution is slow there, and
float32 copies of bfloat16 maps go through memory again and again. Here statistics are taken block by block, in
float32 while a block lies in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 2**17
"""Values of a map that are handled at once on a CPU: 512 KiB in float32, so that they stay in its cache."""


class Moments(NamedTuple):
    """Spatial statistics of two maps, each (B, C) float32; population variances."""

    mean_x: Tensor
    mean_y: Tensor
    variance_x: Tensor
    variance_y: Tensor
    covariance: Tensor


def l2_pool(x: Tensor) -> Tensor:
    """sqrt(g * x^2 + 1e-12) of x (B, C, H, W) at every second pixel, g = [1, 2, 1] x [1, 2, 1] / 16, zero padding."""
    return cast("Tensor", _L2Pool.apply(x))


def moments(x: Tensor, y: Tensor) -> Moments:
    """Statistics of x and y (B, C, H, W), of any floating dtype; differentiable in both."""
    # (B, HW, C): no copy where the channels lie last.
    return Moments(*cast("Any", _Moments.apply(*(v.movedim(1, -1).flatten(1, 2) for v in (x, y)))))


class _L2Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # Filled on the device: a tensor made of Python's numbers would be copied there, and waited for.
        kernel = x.new_full((x.shape[1], 1, 3, 3), 1 / 16)
        kernel[..., 1, :] *= 2
        kernel[..., 1] *= 2
        pooled = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]).add_(1e-12).sqrt_()
        ctx.save_for_backward(x, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, pooled = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        # d/dx = x * g^T(grad / pooled). The transposed kernel gives a pixel at an even place half of its one cell, and
        # one at an odd place a quarter of the two beside it, in each direction.
        spread = F.pad(grad / pooled, (0, 1, 0, 1))
        result = torch.empty_like(x)
        for top, rows in ((0, _even(spread, 2, x.shape[2])), (1, _odd(spread, 2, x.shape[2]))):
            for left, cells in ((0, _even(rows, 3, x.shape[3])), (1, _odd(rows, 3, x.shape[3]))):
                places = (..., slice(top, None, 2), slice(left, None, 2))
                torch.mul(x[places], cells, out=result[places])
        return result


def _even(cells: Tensor, dim: int, size: int) -> Tensor:
    return cells.narrow(dim, 0, (size + 1) // 2) * 0.5


def _odd(cells: Tensor, dim: int, size: int) -> Tensor:
    return (cells.narrow(dim, 0, size // 2) + cells.narrow(dim, 1, size // 2)) * 0.25


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        # About the first block's means: so the variances of flat maps survive the subtraction of squares.
        about_x, about_y = (v[:, : _places_of_a_block(v)].float().mean(1, keepdim=True) for v in (x, y))
        sums = torch.zeros(5, x.shape[0], x.shape[2], device=x.device)
        for samples, places in _blocks(x):
            dx = x[samples, places].float() - about_x[samples]
            dy = y[samples, places].float() - about_y[samples]
            for total, values in zip(sums, (dx, dy, dx * dx, dy * dy, dx * dy), strict=True):
                total[samples] += values.sum(1)
        dx, dy, xx, yy, xy = sums / x.shape[1]
        mean_x, mean_y = about_x[:, 0] + dx, about_y[:, 0] + dy
        ctx.save_for_backward(x, y, mean_x, mean_y)
        return mean_x, mean_y, xx - dx * dx, yy - dy * dy, xy - dx * dy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, mean_x, mean_y = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        by_mean_x, by_mean_y, by_x, by_y, by_both = (grad / x.shape[1] for grad in grads)
        pair, swapped = (x, mean_x, y, mean_y), (y, mean_y, x, mean_x)
        needs_x, needs_y = ctx.needs_input_grad
        return (
            _moments_gradient(*pair, by_mean_x, 2 * by_x, by_both) if needs_x else None,
            _moments_gradient(*swapped, by_mean_y, 2 * by_y, by_both) if needs_y else None,
        )


def _moments_gradient(
    x: Tensor, mean_x: Tensor, y: Tensor, mean_y: Tensor, by_mean: Tensor, by_x: Tensor, by_y: Tensor
) -> Tensor:
    """by_mean + by_x (x - mean_x) + by_y (y - mean_y), in x's dtype."""
    gradient = torch.empty_like(x)
    mean_x, mean_y, by_mean, by_x, by_y = (v.unsqueeze(1) for v in (mean_x, mean_y, by_mean, by_x, by_y))
    for samples, places in _blocks(x):
        dx = (x[samples, places] - mean_x[samples]).mul_(by_x[samples])
        dy = (y[samples, places] - mean_y[samples]).mul_(by_y[samples])
        gradient[samples, places] = dx.add_(dy).add_(by_mean[samples])
    return gradient


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and places of x (B, HW, C), block by block; all at once on a GPU, where launches cost more."""
    samples, places, _ = x.shape
    if x.device.type != "cpu":
        yield slice(None), slice(None)
        return
    step = _places_of_a_block(x)
    for sample in range(samples):
        for start in range(0, places, step):
            yield slice(sample, sample + 1), slice(start, start + step)


def _places_of_a_block(x: Tensor) -> int:
    return max(1, BLOCK // x.shape[2])
