"""How large the autoencoder's maps are for an image, and what they take to compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from .layers import Downsample, Resnet, Upsample
from .vae import Half, MapAttention


class MapSize(NamedTuple):
    """Of a map (1, channels, height, width)."""

    height: int
    width: int
    channels: int

    @property
    def places(self) -> int:
        """Each has `channels` values."""
        return self.height * self.width

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return self.places * self.channels


def map_sizes(half: Half, height: int, width: int) -> Iterator[MapSize]:
    """Of what the first convolution makes of an input of this size, and of what each layer makes of that."""
    size = MapSize(height, width, half.conv_in.out_channels)
    yield size
    for layer in half.layers():
        if isinstance(layer, Resnet):
            size = size._replace(channels=layer.conv2.out_channels)
        elif isinstance(layer, Upsample):
            size = MapSize(2 * size.height, 2 * size.width, size.channels)
        elif isinstance(layer, Downsample):
            size = MapSize(size.height // 2, size.width // 2, size.channels)
        yield size


def work_of(layer: nn.Module, size: MapSize) -> int:
    """Multiplications of a layer that writes a map of this size; an upsampling's before it is folded."""
    weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
    return weights * size.places + (2 * size.places**2 * size.channels if isinstance(layer, MapAttention) else 0)
