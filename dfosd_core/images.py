"""What is done to images around the networks: layout, range, size, padding, alpha. Pure tensor functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .sizes import Placement

BAND_ROWS = 256
"""Rows of a large image that are worked on at once, where the work has copies of what it is done to."""


def to_bchw(image: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), contiguous."""
    return image.permute(0, 3, 1, 2).contiguous()


def to_bhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], the range of the autoencoder."""
    return x * 2.0 - 1.0


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]. Values outside stay outside: nothing is clamped here."""
    return (x * 0.5).add_(0.5)


def put_clamped(target: Tensor, x: Tensor) -> None:
    """Write (B, C, H, W) into `target` (B, H, W, C), limited to [0, 1]."""
    target.copy_(x.permute(0, 2, 3, 1)).clamp_(0.0, 1.0)


def is_finite(image: Tensor) -> bool:
    """No infinity and no NaN in (B, H, W, C)."""
    return all(bool(band.isfinite().all()) for one in image for band in one.split(BAND_ROWS))


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, *size), `resize` without its overshoot: x_lr. Never `x` itself."""
    larger = resize(x, size)
    return larger.clamp(0.0, 1.0) if larger is x else larger.clamp_(0.0, 1.0)


def enlarge_part(x: Tensor, placement: Placement) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, *placement.computed): of the whole, enlarged, what is in the output."""
    return part_of(enlarge(x, placement.scaled), placement)


def part_of(x: Tensor, placement: Placement) -> Tensor:
    """(B, C, *placement.scaled) -> (B, C, *placement.computed); `x` itself where nothing is cut off."""
    if tuple(x.shape[-2:]) == placement.computed:
        return x
    (top, left), (height, width) = placement.cut, placement.computed
    return x[..., top : top + height, left : left + width].clone()  # a view would keep the whole


def between_bars(output: Tensor, placement: Placement) -> Tensor:
    """(..., *placement.output, C) -> (..., *placement.computed, C): a view without the bars."""
    (top, left), (height, width) = placement.bars, placement.computed
    return output[..., top : top + height, left : left + width, :]


def place(image: Tensor, placement: Placement) -> Tensor:
    """(B, H, W, C) in [0, 1] -> (B, *placement.output, C): enlarged bicubically, bars of zeros."""
    output = image.new_zeros((image.shape[0], *placement.output, image.shape[3]), dtype=torch.float32)
    between_bars(output, placement).copy_(to_bhwc(enlarge_part(to_bchw(image.float()), placement)))
    return output


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) float -> (B, C, *size), bicubic (a = -0.5) and antialiased like Pillow's.

    Bicubic overshoots beside edges; nothing is clamped here. The same size returns `x` itself.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    try:
        return functional.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
    except NotImplementedError:  # MPS with an older torch
        if x.device.type == "cpu":
            raise
        return resize(x.cpu(), size).to(x.device)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) padded at the bottom and right to the next multiple, by repeating the last row and column.

    Repeating works from 1x1 up, where mirroring would need more pixels than there are. `crop` undoes it.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left (height, width) of (B, C, H, W): a view."""
    return x[..., : size[0], : size[1]]


def split_alpha(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """(B, 3 or 4, H, W) -> colour (B, 3, H, W) and alpha (B, 1, H, W), or None when there is none."""
    return x[:, :3], x[:, 3:] if x.shape[1] > 3 else None


def fill_hidden(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Colours (B, 3, H, W) with those that nobody sees, where alpha (B, 1, H, W) is 0, taken from what is visible near.

    Whatever a file holds there (often black or white) would else bleed into the edges of what is visible.
    """
    return torch.where(alpha > 0, rgb, _spread(rgb * alpha, alpha))


def _spread(weighted: Tensor, weight: Tensor) -> Tensor:
    """Weighted means over ever larger neighbourhoods, each place by the smallest that has any weight."""
    own = weighted / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if max(weight.shape[-2:]) == 1:
        return own
    halves = (functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (weighted, weight))
    around = functional.interpolate(_spread(*halves), size=weight.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, own, around)


def keep_grey(x: Tensor, original: Tensor) -> Tensor:
    """`x` (B, 3, H, W), in place, with equal channels where all of `original` (B, 3, h, w) has them."""
    is_grey = (original == original[:, :1]).flatten(1).all(1)
    if x.device.type == "cpu" and not is_grey.any():  # to ask a graphics card would be to wait for it
        return x
    return x.lerp_(x.mean(1, keepdim=True), is_grey.to(x.dtype).view(-1, 1, 1, 1))
