"""The layers that Stable Diffusion's UNet and autoencoder share, in plain torch, under diffusers' module names.

For inference: activations and sums are done in place wherever the tensor is the layer's own, which saves a map's
memory and time. Nothing here needs diffusers: inside ComfyUI and the WebUIs DFOSD runs with what those programs have.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .norms import MakeNorm

# Above this many output values nearest upsampling in channels-last order fails on CUDA (pytorch issue 141831).
_LARGEST_MAP = 2**31


class Resnet(nn.Module):
    """Two convolutions beside a shortcut. `time_width`: of the time embedding; None in an autoencoder."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm, time_width: int | None = None) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, outputs)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, C, H, W), `time` (1, T) after its activation -> (B, C', H, W)."""
        h = self.conv1(activated(self.norm1, x))
        if self.time_emb_proj is not None:
            h.add_(self.time_emb_proj(time)[:, :, None, None])
        h = activated(self.norm2, h)
        h = self.conv2(h)
        return h.add_(x if self.conv_shortcut is None else self.conv_shortcut(x))


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU of the normalised map."""
    return F.silu(norm(x), inplace=True)


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

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, *size), by default twice as large."""
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        if x.shape[0] * x.shape[1] * height * width > _LARGEST_MAP:
            x = x.contiguous()
        return self.conv(F.interpolate(x, size=(height, width), mode="nearest"))


class Attention(nn.Module):
    """Queries from one sequence, keys and values from another or the same."""

    def __init__(self, width: int, context_width: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias)
        self.to_k = nn.Linear(context_width, width, bias)
        self.to_v = nn.Linear(context_width, width, bias)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, width), (B, M, context_width) -> (B, N, width)."""
        q, k, v = (
            rearrange(y, "b n (heads d) -> b heads n d", heads=self.heads)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)"))


def to_sequence(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as a sequence of its places (B, H W, C), row by row."""
    return rearrange(x, "b c h w -> b (h w) c")


def to_map(x: Tensor, like: Tensor) -> Tensor:
    """The inverse: (B, H W, C) -> (B, C, H, W) of the height and width of `like`."""
    return rearrange(x, "b (h w) c -> b c h w", h=like.shape[2])
