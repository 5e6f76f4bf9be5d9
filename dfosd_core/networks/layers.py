"""The layers that Stable Diffusion's UNet and autoencoder share, in plain torch, under diffusers' module names.

For inference: activations and sums are done in place wherever the tensor is the layer's own, which saves a map's
memory and time. Nothing here needs diffusers: inside ComfyUI and the WebUIs DFOSD runs with what those programs have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .convolving import activated_conv
from .norms import MakeNorm
from .winograd import WinogradConv2d

# Above this many output values nearest upsampling in channels-last order fails on CUDA (pytorch issue 141831).
_LARGEST_MAP = 2**31


class FirstHalf(NamedTuple):
    """A residual block's first convolution, with what follows it at every place alike already in it (`folding.py`)."""

    weight: Tensor
    bias: Tensor
    norm: nn.Module
    """What is left to do before the activation."""


class Resnet(nn.Module):
    """Two convolutions beside a shortcut. `time_width`: of the time embedding; None in an autoencoder."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm, time_width: int | None = None) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = WinogradConv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, outputs)
        self.norm2 = norm(outputs)
        self.conv2 = WinogradConv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.folded: FirstHalf | None = None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, C, H, W), `time` (1, T) after its activation, or None where it is folded -> (B, C', H, W)."""
        return self.second_half(self.first_half(x, time), x, self.norm_between(time))

    def first_half(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Up to the second norm: (B, C, H, W) -> (B, C', H, W)."""
        if self.folded is not None and time is None:
            return activated_conv(self.norm1, x, self.conv1, self.folded[:2])
        h = activated_conv(self.norm1, x, self.conv1)
        if self.time_emb_proj is not None:
            h.add_(self.time_emb_proj(time)[:, :, None, None])
        return h

    def norm_between(self, time: Tensor | None = None) -> nn.Module:
        """What the second half begins with."""
        return self.norm2 if self.folded is None or time is not None else self.folded.norm

    def second_half(self, h: Tensor, x: Tensor, norm: nn.Module) -> Tensor:
        """What the first half made of `x`, and `x` -> (B, C', H, W)."""
        return activated_conv(norm, h, self.conv2, plus=x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """A convolution of stride 2, padded on all sides (UNet) or only right and below (autoencoder)."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)
        self.is_padded = padding > 0
        self.padding_mode = "constant"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2), rounded up if padded on all sides, else down."""
        return self.conv(x if self.is_padded else F.pad(x, (0, 1, 0, 1), mode=self.padding_mode))


class Upsample(nn.Module):
    """Nearest upsampling and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.folded: Tensor | None = None

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, *size), by default twice as large."""
        twice = (2 * x.shape[2], 2 * x.shape[3])
        height, width = size or twice
        if self.folded is not None and (height, width) == twice:
            return self._transposed(x, self.folded)
        if x.shape[0] * x.shape[1] * height * width > _LARGEST_MAP:
            x = x.contiguous()
        return self.conv(F.interpolate(x, size=(height, width), mode="nearest"))

    def _transposed(self, x: Tensor, kernel: Tensor) -> Tensor:
        if self.conv.padding_mode == "replicate":
            return F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), "replicate"), kernel, self.conv.bias, stride=2, padding=3)
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


class Attention(nn.Module):
    """Queries from one sequence, keys and values from another or the same."""

    def __init__(self, width: int, context_width: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias)
        self.to_k = nn.Linear(context_width, width, bias)
        self.to_v = nn.Linear(context_width, width, bias)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.folded: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """(B, N, width), (B or 1, M, context_width), or None where it is folded -> (B, N, width)."""
        if context is None:
            assert self.folded is not None
            k, v = self.folded
        else:
            k, v = self.keys_and_values(context)
        return self.attend(x, k, v)

    def attend(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, width) to keys and values (B or 1, heads, M, width / heads) -> (B, N, width)."""
        q = self._heads(self.to_q(x))
        k, v = (y.expand(len(q), -1, -1, -1) for y in (k, v))
        return self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)"))

    def keys_and_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, context_width) -> two of (B, heads, M, width / heads)."""
        return self._heads(self.to_k(context)), self._heads(self.to_v(context))

    def _heads(self, y: Tensor) -> Tensor:
        return rearrange(y, "b n (heads d) -> b heads n d", heads=self.heads)


def to_sequence(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as a sequence of its places (B, H W, C), row by row."""
    return rearrange(x, "b c h w -> b (h w) c")


def to_map(x: Tensor, like: Tensor) -> Tensor:
    """The inverse: (B, H W, C) -> (B, C, H, W) of the height and width of `like`."""
    return rearrange(x, "b (h w) c -> b c h w", h=like.shape[2])
