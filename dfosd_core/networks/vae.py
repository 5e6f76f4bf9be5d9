"""Stable Diffusion's autoencoder (Rombach et al., arXiv 2112.10752) in plain torch, under diffusers' names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .borders import repeat_borders
from .config import VaeConfig
from .layers import Attention, Downsample, Resnet, Upsample, activated, to_map, to_sequence
from .norms import MakeNorm, norms
from .sd_configs import Config

EPS = 1e-6

MakeStep = Callable[[int], nn.Module]
"""Channels -> the layer that halves or doubles a map's size."""


class Vae(nn.Module):
    """Images to latents and back, without the scaling factor. For inference."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        norm = norms(config.norm_groups, EPS, config.local_norm)
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config, norm)
        self.decoder = Decoder(config, norm)
        self.quant_conv = nn.Conv2d(moments, moments, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        if config.repeated_borders:
            repeat_borders(self)

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / f, W / f): the posterior's mean."""
        return self.quant_conv(self.encoder(x)).chunk(2, dim=1)[0]

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h f, w f), about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z))


def build_vae(config: Config, name: str) -> Vae:
    """The autoencoder of a diffusers configuration on the meta device: shapes and no weights.

    Raises BaseModelMismatchError, naming `name`, if we have no such network.
    """
    with torch.device("meta"):
        return Vae(VaeConfig.from_diffusers(config, name))


class Encoder(nn.Module):
    """(B, 3, H, W) -> means and log variances, (B, 2 C, H / f, W / f)."""

    def __init__(self, config: VaeConfig, norm: MakeNorm) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = _levels(
            widths, config.layers_per_block, norm, "downsamplers", partial(Downsample, padding=0)
        )
        self.mid_block = Middle(widths[-1], norm, config.mid_attention)
        self.conv_norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        x = activated(self.conv_norm_out, self.mid_block(x))
        return self.conv_out(x)


class Decoder(nn.Module):
    """(B, C, h, w) -> (B, 3, h f, w f)."""

    def __init__(self, config: VaeConfig, norm: MakeNorm) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], norm, config.mid_attention)
        self.up_blocks = _levels(widths, config.layers_per_block + 1, norm, "upsamplers", Upsample)
        self.conv_norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        x = activated(self.conv_norm_out, x)
        return self.conv_out(x)


def _levels(widths: Sequence[int], layers: int, norm: MakeNorm, name: str, step: MakeStep) -> nn.ModuleList:
    """Each level is residual blocks and, but for the last, under `name` the step to the next size."""
    levels = nn.ModuleList()
    for i, width in enumerate(widths):
        inputs = [widths[max(i - 1, 0)], *[width] * (layers - 1)]
        level = nn.Sequential(OrderedDict(resnets=nn.Sequential(*(Resnet(n, width, norm) for n in inputs))))
        if i < len(widths) - 1:
            level.add_module(name, nn.Sequential(step(width)))
        levels.append(level)
    return levels


class Middle(nn.Module):
    """Two residual blocks, between them attention over the whole map (not in the embedded base)."""

    def __init__(self, width: int, norm: MakeNorm, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MapAttention(width, norm)] if attention else [])
        self.resnets = nn.ModuleList([Resnet(width, width, norm), Resnet(width, width, norm)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class MapAttention(Attention):
    """Every place of the map to every other, one head, added to the map."""

    def __init__(self, width: int, norm: MakeNorm) -> None:
        super().__init__(width, width, heads=1, bias=True)
        self.group_norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, H, W) to the same."""
        sequence = to_sequence(self.group_norm(x))
        return x + to_map(super().forward(sequence, sequence), like=x)
