"""The smallest honest host: a few convolutions around a schedule-sized step, no weights on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.metadata import BaseLayout
from dfosd_core.tiles.size import TileSettings, TileSize

LATENT_CHANNELS = 4
CONTEXT_DIM = 8


class TinyHost:
    """Finite receptive fields and no statistics, so tiles with enough overlap must equal the whole."""

    name = "tiny"

    def __init__(self, latent_factor: int, tiles: TileSize | None = None) -> None:
        self.latent_factor = latent_factor
        self.layout = BaseLayout(
            context_dim=CONTEXT_DIM,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            latent_channels=LATENT_CHANNELS,
            latent_factor=latent_factor,
            block_out_channels=(LATENT_CHANNELS, 8),
            prediction_type="epsilon",
        )
        self.size_multiple_px = 2 * latent_factor  # the UNet halves once
        self.tiles = tiles or TileSize(0, 0)
        self.attached: list[float] = []
        self.largest_px = 0
        self.limit_px: int | None = None
        generator = torch.Generator().manual_seed(7)
        f2 = latent_factor**2

        def weight(out: int, into: int, size: int) -> Tensor:
            fan_in = into * size * size
            return torch.randn(out, into, size, size, generator=generator) * (0.6 / fan_in**0.5)

        self.w_encode = weight(LATENT_CHANNELS, 3 * f2, 1)
        self.w_encode_mix = weight(LATENT_CHANNELS, LATENT_CHANNELS, 3)
        self.w_down, self.w_mid, self.w_up = weight(8, 4, 3), weight(8, 8, 3), weight(LATENT_CHANNELS, 8, 3)
        self.w_decode_mix = weight(LATENT_CHANNELS, LATENT_CHANNELS, 3)
        self.w_decode = weight(3 * f2, LATENT_CHANNELS, 1)
        self.w_smooth = weight(3, 3, 3)

    def encode(self, x: Tensor) -> Tensor:
        self._use(x.shape[-1], x.shape[-2])
        z = functional.conv2d(functional.pixel_unshuffle(x, self.latent_factor), self.w_encode)
        return functional.conv2d(z, self.w_encode_mix, padding=1)

    def decode(self, z: Tensor) -> Tensor:
        self._use(z.shape[-1] * self.latent_factor, z.shape[-2] * self.latent_factor)
        y = functional.conv2d(functional.conv2d(z, self.w_decode_mix, padding=1), self.w_decode)
        return functional.conv2d(functional.pixel_shuffle(y, self.latent_factor), self.w_smooth, padding=1)

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        self._use(z.shape[-1] * self.latent_factor, z.shape[-2] * self.latent_factor)
        assert prompt_embeds.shape[-1] == CONTEXT_DIM
        h = functional.conv2d(z, self.w_down, padding=1, stride=2) + t / 1000 + prompt_embeds.mean()
        h = functional.interpolate(functional.conv2d(h.tanh(), self.w_mid, padding=1), scale_factor=2.0)
        return functional.conv2d(h, self.w_up, padding=1)

    @contextmanager
    def lora(self, lora: Any, strength: float) -> Iterator[None]:
        self.attached.append(strength)
        try:
            yield
        finally:
            self.attached.pop()

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        return TileSettings(encode=self.tiles, unet=self.tiles, decode=self.tiles)

    def _use(self, width_px: int, height_px: int) -> None:
        if self.limit_px is not None and max(width_px, height_px) > self.limit_px:
            raise torch.cuda.OutOfMemoryError("Tried to allocate 20.00 GiB")
        self.largest_px = max(self.largest_px, width_px, height_px)


@pytest.fixture(scope="session")
def make_host() -> Callable[..., TinyHost]:
    return TinyHost


@pytest.fixture(scope="session")
def tiny_lora() -> DfosdLora:
    """What the pipeline reads of one."""
    metadata = SimpleNamespace(timestep=399, rule="eps-x0", base_model="tiny", parts={})
    prompt_embeds = torch.full((1, 2, CONTEXT_DIM), 0.1)
    return cast("DfosdLora", SimpleNamespace(metadata=metadata, prompt_embeds=prompt_embeds))
