"""Stable Diffusion's autoencoder (Rombach et al., arXiv 2112.10752) in plain torch, under diffusers' names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .borders import repeat_borders
from .config import VaeConfig
from .convolving import activated, activated_conv_in_float32
from .layers import Attention, Downsample, Resnet, Upsample, to_map, to_sequence
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


class Half(nn.Module):
    """An encoder or decoder: a convolution, `layers`, and a norm and convolution at the end."""

    def __init__(self, inputs: int, first: int, last: int, outputs: int, norm: MakeNorm) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, first, 3, padding=1)
        self.conv_norm_out = norm(last)
        self.conv_out = nn.Conv2d(last, outputs, 3, padding=1)

    def layers(self) -> list[nn.Module]:
        """What is between, in the order in which it runs."""
        raise NotImplementedError

    def last(self, x: Tensor) -> Tensor:
        """What comes after the layers."""
        return self.conv_out(activated(self.conv_norm_out, x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for layer in self.layers():
            x = layer(x)
        return self.last(x)


class Encoder(Half):
    """(B, 3, H, W) -> means and log variances, (B, 2 C, H / f, W / f)."""

    def __init__(self, config: VaeConfig, norm: MakeNorm) -> None:
        widths = config.block_out_channels
        super().__init__(3, widths[0], widths[-1], 2 * config.latent_channels, norm)
        self.down_blocks = _levels(
            widths, config.layers_per_block, norm, "downsamplers", partial(Downsample, padding=0)
        )
        self.mid_block = Middle(widths[-1], norm, config.mid_attention)

    def layers(self) -> list[nn.Module]:
        return [*_in_order(self.down_blocks), *self.mid_block.layers()]


class Decoder(Half):
    """(B, C, h, w) -> (B, 3, h f, w f)."""

    def __init__(self, config: VaeConfig, norm: MakeNorm) -> None:
        widths = config.block_out_channels[::-1]
        super().__init__(config.latent_channels, widths[0], widths[-1], 3, norm)
        self.mid_block = Middle(widths[0], norm, config.mid_attention)
        self.up_blocks = _levels(widths, config.layers_per_block + 1, norm, "upsamplers", Upsample)

    def layers(self) -> list[nn.Module]:
        return [*self.mid_block.layers(), *_in_order(self.up_blocks)]

    def last(self, x: Tensor) -> Tensor:
        """To float32: the picture's own steps are finer than a 16-bit format's near white. It takes no longer."""
        if x.dtype == torch.float32:
            return super().last(x)
        return activated_conv_in_float32(self.conv_norm_out, x, self.conv_out)


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


def _in_order(levels: nn.ModuleList) -> list[nn.Module]:
    return [layer for level in levels for part in level.children() for layer in part.children()]


class Middle(nn.Module):
    """Two residual blocks, between them attention over the whole map (not in the embedded base)."""

    def __init__(self, width: int, norm: MakeNorm, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MapAttention(width, norm)] if attention else [])
        self.resnets = nn.ModuleList([Resnet(width, width, norm), Resnet(width, width, norm)])

    def layers(self) -> list[nn.Module]:
        """In the order in which they run."""
        return [self.resnets[0], *self.attentions, self.resnets[1]]


class MapAttention(Attention):
    """Every place of the map to every other, one head, added to the map."""

    def __init__(self, width: int, norm: MakeNorm) -> None:
        super().__init__(width, width, heads=1, bias=True)
        self.group_norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, H, W) to the same."""
        sequence = to_sequence(self.group_norm(x))
        return x + to_map(self.attend(sequence, *self.keys_and_values(sequence)), like=x)

    def keys_and_values_of(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Of the places of some rows, (B, C, h, W) -> two of (B, 1, h W, C)."""
        return self.keys_and_values(to_sequence(self.group_norm(part)))

    def of_rows(self, part: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Those rows of the result, from the keys and values of the whole map."""
        return part + to_map(self.attend(to_sequence(self.group_norm(part)), k, v), like=part)
