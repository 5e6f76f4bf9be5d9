"""Stable Diffusion's autoencoder (Rombach et al., arXiv 2112.10752) in plain torch, under diffusers' names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VaeConfig
from .layers import Attention, Downsample, Resnet, Upsample, activated, to_map, to_sequence
from .norms import MakeNorm, norms
from .sd_configs import Config

EPS = 1e-6


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
        self.down_blocks = nn.ModuleList(
            DownLevel(inputs, outputs, config.layers_per_block, norm, is_last=i == len(widths) - 1)
            for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False))
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
        self.up_blocks = nn.ModuleList(
            UpLevel(inputs, outputs, config.layers_per_block + 1, norm, is_last=i == len(widths) - 1)
            for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.conv_norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        x = activated(self.conv_norm_out, x)
        return self.conv_out(x)


class DownLevel(nn.Module):
    """Residual blocks and, but for the last level, a step to half the size."""

    def __init__(self, inputs: int, outputs: int, layers: int, norm: MakeNorm, *, is_last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(inputs, outputs, layers, norm)
        self.downsamplers = nn.ModuleList() if is_last else nn.ModuleList([Downsample(outputs, padding=0)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpLevel(nn.Module):
    """Residual blocks and, but for the last level, a step to twice the size."""

    def __init__(self, inputs: int, outputs: int, layers: int, norm: MakeNorm, *, is_last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(inputs, outputs, layers, norm)
        self.upsamplers = nn.ModuleList() if is_last else nn.ModuleList([Upsample(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


def _resnets(inputs: int, outputs: int, layers: int, norm: MakeNorm) -> nn.ModuleList:
    return nn.ModuleList(Resnet(inputs if i == 0 else outputs, outputs, norm) for i in range(layers))


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
