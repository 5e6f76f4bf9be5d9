"""3x3 convolutions with a quarter of the multiplications, for float32 on a CPU.

Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): a 6x6 piece of the map and the kernel are transformed, their
36 values multiplied, channel by channel a matrix product, and transformed back to 4x4 results. Rounding differs from a
direct sum's by about 1e-5 of the largest value. bfloat16 would lose more than a digit that it hasn't got, and a
graphics card's library chooses by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_CHANNELS, _LEAST_PLACES = 256, 64 * 64
"""Below these the transforms take more time than the products save."""
_PIECES = 2**16
"""Pieces times channels that are transformed at a time: about 10 MB, which stay in the processor's cache."""
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class WinogradConv2d(nn.Conv2d):
    """torch's convolution, which takes the shorter way where it is 3x3, keeps the map's size, and that pays."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        if not self.pays(input, weight):
            return super()._conv_forward(input, weight, bias)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return torch.cat([conv3x3(x, weight, bias, mode) for x in input.split(1)])

    def pays(self, x: Tensor, weight: Tensor) -> bool:
        """Whether the map takes the shorter way."""
        return _pays(x, weight) and (
            self.kernel_size == (3, 3) and self.padding == self.stride == self.dilation == (1, 1) and self.groups == 1
        )


def _pays(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and x.shape[2] * x.shape[3] >= _LEAST_PLACES
        and not torch.is_grad_enabled()
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str = "constant") -> Tensor:
    """What `F.conv2d` makes of `x` padded by 1: (1, C, H, W), (O, C, 3, 3) -> (1, O, H, W) in channels-last order.

    `padding_mode`: as of `F.pad`. It cannot be differentiated.
    """
    _, channels, height, width = x.shape
    down, across = -(-height // 4), -(-width // 4)  # pieces
    kernel = _transformed(weight)
    result = x.new_empty(4 * down, 4 * across, len(weight))
    step = max(1, _PIECES // (max(channels, len(weight)) * across))
    room = _Room(x, min(step, down), across, channels, len(weight))
    for i in range(0, down, step):
        n = min(step, down - i)
        top, bottom = 4 * i - 1, 4 * (i + n) + 1
        strip = x[:, :, max(top, 0) : min(bottom, height)]
        # What lies beyond the border by more than 1 is only seen by results that are cut off.
        sides = (1, 4 * across + 1 - width, max(-top, 0), max(bottom - height, 0))
        strip = F.pad(strip, sides, padding_mode).contiguous(memory_format=torch.channels_last)
        pieces = room.pieces(strip[0].permute(1, 2, 0))
        room.write(room.products(pieces, kernel), bias, result[4 * i : 4 * (i + n)])
    return result[:height, :width].permute(2, 0, 1)[None]


def _transformed(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O)."""
    rows = torch.tensor(_KERNEL, dtype=torch.float64)
    both = torch.kron(rows, rows).to(weight)
    outputs, channels = weight.shape[:2]
    return (both @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, outputs)


class _Room:
    """Memory for rows of pieces on their way, asked for once: new pages take as long as the sums."""

    def __init__(self, like: Tensor, down: int, across: int, channels: int, outputs: int) -> None:
        self._channels, self._outputs = channels, outputs
        sizes = (
            6 * down * (4 * across + 2) * channels,
            36 * down * across * channels,
            36 * down * across * outputs,
            24 * down * across * outputs,
        )
        self._rows, self._both, self._products, self._rows_back = (like.new_empty(size) for size in sizes)

    def pieces(self, x: Tensor) -> Tensor:
        """Rows (4 R + 2, 4 W + 2, C) -> (6, 6, R, W, C): the transformed pieces, which overlap by 2."""
        down, across = x.shape[0] // 4, x.shape[1] // 4
        rows = _part(self._rows, 6, down, x.shape[1], self._channels)
        _transform([x[k : k + 4 * down - 3 : 4] for k in range(6)], rows)
        both = _part(self._both, 6, 6, down, across, self._channels)
        _transform([rows[:, :, k : k + 4 * across - 3 : 4] for k in range(6)], both.transpose(0, 1))
        return both

    def products(self, pieces: Tensor, kernel: Tensor) -> Tensor:
        """(6, 6, R, W, C), (36, C, O) -> (6, 6, R, W, O)."""
        shape = (*pieces.shape[:4], self._outputs)
        products = _part(self._products, *shape)
        torch.bmm(pieces.view(36, -1, self._channels), kernel, out=products.view(36, -1, self._outputs))
        return products

    def write(self, products: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """(6, 6, R, W, O) back into rows (4 R, 4 W, O) of the result."""
        down, across = products.shape[2:4]
        rows = _part(self._rows_back, 4, 6, down, across, self._outputs)
        _transform_back(products, rows)
        places = out.view(down, 4, across, 4, self._outputs).permute(3, 1, 0, 2, 4)
        _transform_back(rows.transpose(0, 1), places, bias)


def _part(room: Tensor, *shape: int) -> Tensor:
    return room[: math.prod(shape)].view(shape)


def _transform(x: Sequence[Tensor], out: Tensor) -> None:
    """Six values at each place -> six: B^T x, in sums that share what they can."""
    near, far = torch.sub(x[4], x[2]), torch.sub(x[3], x[1]).mul_(2)
    torch.sub(x[0], x[2], out=out[0])
    torch.add(near, out[0], alpha=4, out=out[0])
    torch.add(near, far, out=out[3])
    torch.sub(near, far, out=out[4])
    torch.sub(x[5], x[3], out=out[5])
    out[5].sub_(far, alpha=2)
    torch.sub(x[4], x[2], alpha=4, out=near)
    torch.sub(x[3], x[1], alpha=4, out=far)
    torch.add(near, far, out=out[1])
    torch.sub(near, far, out=out[2])


def _transform_back(x: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
    """Six values at each place -> four: A^T x, plus the bias."""
    even, odd = x[1] + x[2], x[1] - x[2]
    if bias is not None:  # each result has one of these two in it, once
        even.add_(bias)
        odd.add_(bias)
    wide_even, wide_odd = x[3] + x[4], x[3] - x[4]
    torch.add(x[0], even, out=out[0])
    out[0].add_(wide_even)
    torch.add(even, wide_even, alpha=4, out=out[2])
    torch.add(odd, wide_odd, alpha=2, out=out[1])
    odd.add_(wide_odd, alpha=8)
    torch.add(odd, x[5], out=out[3])
