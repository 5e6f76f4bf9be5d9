"""Stable Diffusion's UNet (Rombach et al., arXiv 2112.10752) in plain torch, under diffusers' names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .borders import repeat_borders
from .config import UnetConfig
from .convolving import activated
from .layers import Attention, Downsample, Resnet, Upsample, to_map, to_sequence
from .norms import MakeNorm, norms
from .sd_configs import Config

TRANSFORMER_EPS = 1e-6
LONGEST_PERIOD = 10000


class Unet(nn.Module):
    """What a UNet of SD 1.x, SD 2.x or the embedded base predicts. For inference."""

    def __init__(self, config: UnetConfig) -> None:
        super().__init__()
        self.config = config
        widths, time_width = config.block_out_channels, 4 * config.block_out_channels[0]
        norm = norms(config.norm_groups, config.norm_eps, config.local_norm)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time_width)
        self.down_blocks = nn.ModuleList(DownLevel(config, i, norm, time_width) for i in range(len(widths)))
        self.mid_block = Middle(config, norm, time_width)
        self.up_blocks = nn.ModuleList(UpLevel(config, i, norm, time_width) for i in reversed(range(len(widths))))
        self.conv_norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        if config.repeated_borders:
            repeat_borders(self)
        self.folded_for: tuple[int, Tensor] | None = None
        """The timestep and prompt whose constants lie in the layers (`folding.py`)."""

    def forward(self, z: Tensor, t: int, context: Tensor) -> Tensor:
        """(B, C, h, w) of any size, timestep, (B or 1, N, context_dim) -> (B, C, h, w)."""
        if self.folded_for is not None and self.folded_for[0] == t and self.folded_for[1] is context:
            return self._forward(z, None, None)
        return self._forward(z, self.time_embedding(t, z), context)

    def _forward(self, z: Tensor, time: Tensor | None, context: Tensor | None) -> Tensor:
        x = self.conv_in(z)
        skips = [x]
        for level in self.down_blocks:
            x = level(x, time, context, skips)
        x = self.mid_block(x, time, context)
        for level in self.up_blocks:
            x = level(x, time, context, skips)
        x = activated(self.conv_norm_out, x)
        return self.conv_out(x)


def build_unet(config: Config, name: str) -> Unet:
    """The UNet of a diffusers configuration on the meta device: shapes and no weights.

    Raises BaseModelMismatchError, naming `name`, if we have no such network.
    """
    with torch.device("meta"):
        return Unet(UnetConfig.from_diffusers(config, name))


class TimeEmbedding(nn.Module):
    """A timestep as cosines and sines of falling frequency, through two linear layers and an activation."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(frequencies, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: int, like: Tensor) -> Tensor:
        """(1, width) in the format and on the device of `like`."""
        half = self.linear_1.in_features // 2
        exponents = -math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32, device=like.device) / half
        angles = t * exponents.exp()
        waves = torch.cat([angles.cos(), angles.sin()])[None].to(like.dtype)
        # Every residual block activates the embedding first, so it is done once here.
        return F.silu(self.linear_2(F.silu(self.linear_1(waves))))


class DownLevel(nn.Module):
    """Level `i`: residual blocks, each with its transformer if the level has them, and a step to half the size."""

    def __init__(self, config: UnetConfig, i: int, norm: MakeNorm, time_width: int) -> None:
        super().__init__()
        widths, width, layers = config.block_out_channels, config.block_out_channels[i], config.layers_per_block
        inputs = [widths[max(i - 1, 0)], *[width] * (layers - 1)]
        self.attentions = _transformers(config, i, layers if config.attention_levels[i] else 0)
        self.resnets = nn.ModuleList(Resnet(n, width, norm, time_width) for n in inputs)
        is_last = i == len(widths) - 1
        self.downsamplers = nn.ModuleList() if is_last else nn.ModuleList([Downsample(width, padding=1)])

    def forward(self, x: Tensor, time: Tensor | None, context: Tensor | None, skips: list[Tensor]) -> Tensor:
        """Append every intermediate map to `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, context)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class Middle(nn.Module):
    """A transformer between two residual blocks."""

    def __init__(self, config: UnetConfig, norm: MakeNorm, time_width: int) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.attentions = _transformers(config, len(config.block_out_channels) - 1, 1)
        self.resnets = nn.ModuleList(Resnet(width, width, norm, time_width) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor | None, context: Tensor | None) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, time), context)
        return self.resnets[1](x, time)


class UpLevel(nn.Module):
    """Level `i`: as on the way down, each residual block with a skip beside its input; then twice the size."""

    def __init__(self, config: UnetConfig, i: int, norm: MakeNorm, time_width: int) -> None:
        super().__init__()
        widths, width, layers = config.block_out_channels, config.block_out_channels[i], config.layers_per_block + 1
        inputs = [widths[min(i + 1, len(widths) - 1)], *[width] * (layers - 1)]
        skips = [*[width] * (layers - 1), widths[max(i - 1, 0)]]
        self.attentions = _transformers(config, i, layers if config.attention_levels[i] else 0)
        self.resnets = nn.ModuleList(
            Resnet(n + skip, width, norm, time_width) for n, skip in zip(inputs, skips, strict=True)
        )
        self.upsamplers = nn.ModuleList() if i == 0 else nn.ModuleList([Upsample(width)])

    def forward(self, x: Tensor, time: Tensor | None, context: Tensor | None, skips: list[Tensor]) -> Tensor:
        """Take the maps it needs off `skips`, the latest first."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
            if self.attentions:
                x = self.attentions[i](x, context)
        for upsample in self.upsamplers:
            # To the size of the next skip: on the way down an odd size was rounded up.
            x = upsample(x, (skips[-1].shape[2], skips[-1].shape[3]))
        return x


def _transformers(config: UnetConfig, level: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(Transformer(config, level) for _ in range(count))


class Transformer(nn.Module):
    """Self-attention, attention to the prompt and a feed-forward net over the map's places, added to the map."""

    def __init__(self, config: UnetConfig, level: int) -> None:
        super().__init__()
        width = config.block_out_channels[level]
        self.norm = norms(config.norm_groups, TRANSFORMER_EPS, config.local_norm)(width)
        # A linear layer in SD 2.x, in SD 1.x a 1x1 convolution: the same numbers in another shape.
        self.is_linear = config.linear_projection
        self.proj_in = nn.Linear(width, width) if config.linear_projection else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, level)])
        self.proj_out = nn.Linear(width, width) if config.linear_projection else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """(B, C, h, w), (B, N, context_dim) -> (B, C, h, w)."""
        h = self.norm(x)
        h = self.proj_in(to_sequence(h)) if self.is_linear else to_sequence(self.proj_in(h))
        h = self.transformer_blocks[0](h, context)
        h = to_map(self.proj_out(h), like=x) if self.is_linear else self.proj_out(to_map(h, like=x))
        return h.add_(x)


class TransformerBlock(nn.Module):
    """(B, N, width), (B, M, context_dim) -> (B, N, width)."""

    def __init__(self, config: UnetConfig, level: int) -> None:
        super().__init__()
        width, heads = config.block_out_channels[level], config.heads[level]
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads) if config.self_attention else None
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, config.context_dim, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self.attn1 is not None:
            h = self.norm1(x)
            x = self.attn1(h, h).add_(x)
        x = self.attn2(self.norm2(x), context).add_(x)
        return self.ff(self.norm3(x)).add_(x)


class FeedForward(nn.Module):
    """A gated layer four times as wide, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The empty place is a dropout in diffusers; it keeps the second layer's number.
        self.net = nn.Sequential(GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GatedLinear(nn.Module):
    """One linear layer's first half times the GELU of its second."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)
