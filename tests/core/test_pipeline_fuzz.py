from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfosd_core.color_fix import COLOR_FIXES
from dfosd_core.pipeline import UpscaleSettings, upscale

MAX_OUTPUT_PX = 280 * 280  # keeps an example in milliseconds: the large scales meet the small images

edges = st.one_of(st.integers(1, 8), st.integers(1, 70))
tiles = st.one_of(st.none(), st.just(0), st.integers(1, 40), st.integers(40, 300))


def overlaps(tile: int | None) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.integers(0, (tile or 200) // 2))


@st.composite
def upscale_settings(draw: st.DrawFn, height: int, width: int) -> UpscaleSettings:
    largest = min(8.0, (MAX_OUTPUT_PX / (height * width)) ** 0.5)
    scale = draw(st.one_of(st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.floats(1.0, 8.0)))
    scale = max(min(scale, largest), 1.0)
    edge = draw(st.sampled_from(["scale", "long_edge", "short_edge"]))
    reference = {"scale": 1, "long_edge": max(height, width), "short_edge": min(height, width)}[edge]
    unet_tile, vae_tile = draw(tiles), draw(tiles)
    return UpscaleSettings(
        **({"scale": scale} if edge == "scale" else {edge: int(reference * scale)}),
        unet_tile=unet_tile,
        unet_overlap=draw(overlaps(unet_tile)),
        vae_tile=vae_tile,
        vae_overlap=draw(overlaps(vae_tile)),
        color_fix=draw(st.sampled_from(list(COLOR_FIXES))),
    )


def expected_edge(edge: int, height: int, width: int, choice: UpscaleSettings) -> int:
    if choice.long_edge:
        return max(round(edge * choice.long_edge / max(height, width)), 1)
    if choice.short_edge:
        return max(round(edge * choice.short_edge / min(height, width)), 1)
    return max(round(edge * choice.scale), 1)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    height=edges,
    width=edges,
    channels=st.sampled_from([3, 4]),
    factor=st.sampled_from([4, 8]),
)
def test_any_image_and_settings_give_the_exact_size(
    make_host: Callable[..., Any],
    tiny_lora: SimpleNamespace,
    data: st.DataObject,
    height: int,
    width: int,
    channels: int,
    factor: int,
) -> None:
    choice = data.draw(upscale_settings(height, width))
    host = make_host(factor)
    generator = torch.Generator().manual_seed(height * 71 + width)
    batch = torch.rand(2, height, width, channels, generator=generator)
    result = upscale(batch, host, tiny_lora, choice)
    size = [expected_edge(edge, height, width, choice) for edge in (height, width)]
    assert list(result.shape) == [2, *size, channels]
    assert torch.isfinite(result).all()
    assert result.min() >= 0.0
    assert result.max() <= 1.0
    assert torch.equal(upscale(batch[1:], host, tiny_lora, choice), result[1:])
