"""Norm, activation, convolution and sum of a residual block, on a CPU in fewer passes over the map.

A pass over a large map in memory takes as long as a fifth of a convolution. Where borders are repeated, the
activation is written into the padded map at once, instead of being copied there; so it is where zeros are around a
large map of few channels, which oneDNN is slow to pad. In bfloat16, oneDNN's convolution adds the shortcut itself,
and a convolution of 1x1 on each channel alone is an affine map, its activation and its padding in one.
Elsewhere, and while gradients are recorded, the layers run one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norms import ChannelAffine
from .winograd import WinogradConv2d

_THIN_CHANNELS, _LARGE_WIDTH = 128, 512
"""Of a large map of few channels: at most, and at least."""


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU of the normalised map."""
    return _affine_silu(norm, x, 0) if _is_affine_silu(norm, x) else F.silu(norm(x), inplace=True)


def activated_conv(
    norm: nn.Module,
    x: Tensor,
    conv: WinogradConv2d,
    own: tuple[Tensor, Tensor] | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """`conv(SiLU(norm(x))) + plus`: (B, C, H, W) and (B, O, H, W) -> (B, O, H, W).

    own: weight and bias in place of the convolution's. Without a norm (`nn.Identity`) `x` may be overwritten.
    """
    weight, bias = own or (conv.weight, cast("Tensor", conv.bias))
    is_plain = _is_inference_on_cpu(x) and not conv.pays(x, weight)
    is_padded = is_plain and _pads_first(x, conv)
    h = _activated_and_padded(norm, x, conv.padding_mode) if is_padded else activated(norm, x)
    if is_plain and plus is not None and _adds(h, plus):
        return _summed(h, plus, weight, bias, 0 if is_padded else 1)
    if is_padded:
        y = F.conv2d(h, weight, bias)
    elif own is None:
        y = conv(h)
    else:  # the layer knows how it pads: with zeros, or with what is at the border
        y = conv._conv_forward(h, *own)  # pyright: ignore[reportPrivateUsage]
    return y if plus is None else y.add_(plus)


def activated_conv_in_float32(norm: nn.Module, x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv(SiLU(norm(x)))` with steps finer than a 16-bit format's: (B, C, H, W) -> (B, O, H, W), float32."""
    assert conv.bias is not None
    is_padded = _is_inference_on_cpu(x) and _pads_first(x, conv)
    h = _activated_and_padded(norm, x, conv.padding_mode) if is_padded else activated(norm, x)
    if _is_inference_on_cpu(x) and _adds(h, h) and (is_padded or conv.padding_mode == "zeros"):
        # The same twice, the second time less the first, before it is rounded: what rounding took away.
        padding = 0 if is_padded else 1
        rounded = F.conv2d(h, conv.weight, conv.bias, padding=padding)
        return rounded.float().add_(_summed(h, -rounded, conv.weight, conv.bias, padding))
    weight, bias = conv.weight.float(), conv.bias.float()
    if is_padded:
        return F.conv2d(h.float(), weight, bias)
    return conv._conv_forward(h.float(), weight, bias)  # pyright: ignore[reportPrivateUsage]


def _activated_and_padded(norm: nn.Module, x: Tensor, padding_mode: str) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2, W + 2): around it zeros ("zeros") or its outermost values ("replicate")."""
    fill_border = _zero_border if padding_mode == "zeros" else _repeat_border
    if _is_affine_silu(norm, x):
        return fill_border(_affine_silu(norm, x, 1))
    batch, channels, height, width = x.shape
    size = (batch, channels, height + 2, width + 2)
    padded = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    inside = padded[:, :, 1:-1, 1:-1]
    if isinstance(norm, ChannelAffine):
        norm.into(inside, x)
        F.silu(inside, inplace=True)
    else:
        torch.ops.aten.silu.out(norm(x), out=inside)
    return fill_border(padded)


def _repeat_border(padded: Tensor) -> Tensor:
    """Fill the outermost rows and columns with those next to them."""
    height, width = padded.shape[2:]
    padded[:, :, 1:-1, :: width - 1] = padded[:, :, 1:-1, 1 : width - 1 : max(width - 3, 1)]
    padded[:, :, :: height - 1] = padded[:, :, 1 : height - 1 : max(height - 3, 1)]
    return padded


def _zero_border(padded: Tensor) -> Tensor:
    height, width = padded.shape[2:]
    padded[:, :, :: height - 1] = 0
    padded[:, :, :, :: width - 1] = 0
    return padded


def _pads_first(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether the activation is written into a padded map.

    With repeated borders, which saves a copy. With zeros, oneDNN pads by itself; but over a large map of few channels,
    in bfloat16, it takes up to 1.7 times as long then.
    """
    is_thin = x.shape[1] <= _THIN_CHANNELS and x.shape[3] >= _LARGE_WIDTH and x.dtype == torch.bfloat16
    return conv.padding_mode == "replicate" or (conv.padding_mode == "zeros" and is_thin)


def _is_inference_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def _is_affine_silu(norm: nn.Module, x: Tensor) -> TypeGuard[ChannelAffine]:
    """Whether `_affine_silu` may be called with them. In float32 it is no faster."""
    is_bfloat16 = isinstance(norm, ChannelAffine) and x.dtype == norm.weight.dtype == torch.bfloat16
    in_order = x.is_contiguous(memory_format=torch.channels_last)
    return is_bfloat16 and in_order and _is_inference_on_cpu(x) and _has_affine_silu()


def _affine_silu(norm: ChannelAffine, x: Tensor, padding: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 padding, W + 2 padding); what is in the padding is of no use."""
    fused: Any = torch.ops.mkldnn._convolution_pointwise
    weight, sides, once = norm.weight[:, None, None, None], [padding, padding], [1, 1]
    return fused(x, weight, norm.bias, sides, once, once, x.shape[1], "swish", [], None)


def _summed(x: Tensor, plus: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    once = [1, 1]
    fused: Any = torch.ops.mkldnn._convolution_pointwise.binary
    return fused(x, plus, weight, bias, [padding, padding], once, once, 1, "add", 1.0, None, [], None)


def _adds(x: Tensor, plus: Tensor) -> bool:
    """Whether the convolution can add it. In float32 it is no faster."""
    is_bfloat16 = x.dtype == plus.dtype == torch.bfloat16
    return is_bfloat16 and plus.is_contiguous(memory_format=torch.channels_last) and _has_fused_sum()


@cache
def _has_fused_sum() -> bool:
    return _gives(lambda one: _summed(one, one, one, one.view(1), 0), 3.0)


@cache
def _has_affine_silu() -> bool:
    return _gives(lambda one: _affine_silu(ChannelAffine(1).to(one.dtype), one, 0), 0.73046875)  # SiLU(1)


def _gives(compute: Callable[[Tensor], Tensor], expected: float) -> bool:
    """Whether it does, of a one. Such operations are made for torch's own compiler, without a public name, and for
    processors with bfloat16.
    """
    try:
        return float(compute(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16))) == expected
    except (AttributeError, RuntimeError, TypeError):
        return False
