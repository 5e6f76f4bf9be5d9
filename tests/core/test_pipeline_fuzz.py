from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dfosd_core.color_fix import COLOR_FIXES
from dfosd_core.lora.file import DfosdLora
from dfosd_core.pipeline import UpscaleSettings, upscale

MAX_OUTPUT_PX = 160 * 160  # keeps an example in milliseconds: the large scales meet the small images


class Case(NamedTuple):
    height: int
    width: int
    channels: int
    factor: int
    settings: UpscaleSettings


def tiles(edge: int) -> st.SearchStrategy[int | None]:
    """Of an output of that long edge: automatic, none, several a side, one or two a side."""
    return st.one_of(st.none(), st.just(0), st.integers(edge // 6 + 1, edge // 2 + 1), st.integers(edge // 2, edge + 8))


def overlaps(tile: int | None) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.integers(0, (tile or 200) // 2))


def exact_size(draw: st.DrawFn, height: int, width: int, scale: float) -> dict[str, Any]:
    """Not larger than the image by `scale` in one direction, and in the other not for "crop", or not smaller."""
    down, across = -(-height * scale // 1), -(-width * scale // 1)
    if down / height > 8 or across / width > 8:
        return {"scale": scale}
    fit = draw(st.sampled_from(["crop", "pad"]))
    other = st.integers(1, 160)
    if draw(st.booleans()):
        return {"fit": fit, "height": int(down), "width": draw(other.filter(lambda x: (x < across) == (fit == "crop")))}
    return {"fit": fit, "width": int(across), "height": draw(other.filter(lambda x: (x < down) == (fit == "crop")))}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    edges = st.one_of(st.integers(1, 8), st.integers(1, 70))
    height, width = draw(edges), draw(edges)
    largest = min(8.0, (MAX_OUTPUT_PX / (height * width)) ** 0.5)
    scale = draw(st.one_of(st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.floats(1.0, 8.0)))
    scale = max(min(scale, largest), 1.0)
    size: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"scale": scale},
                {"long_edge": int(max(height, width) * scale)},
                {"short_edge": int(min(height, width) * scale)},
                exact_size(draw, height, width, scale),
            ]
        )
    )
    long_edge = int(max(height, width) * scale)
    unet_tile, vae_tile = draw(tiles(long_edge)), draw(tiles(long_edge))
    choice = UpscaleSettings(
        **size,
        unet_tile=unet_tile,
        unet_overlap=draw(overlaps(unet_tile)),
        vae_tile=vae_tile,
        vae_overlap=draw(overlaps(vae_tile)),
        color_fix=draw(st.sampled_from(list(COLOR_FIXES))),
    )
    return Case(height, width, draw(st.sampled_from([3, 4])), draw(st.sampled_from([4, 8])), choice)


def expected_edge(edge: int, height: int, width: int, choice: UpscaleSettings) -> int:
    if choice.long_edge:
        return max(round(edge * choice.long_edge / max(height, width)), 1)
    if choice.short_edge:
        return max(round(edge * choice.short_edge / min(height, width)), 1)
    return max(round(edge * choice.scale), 1)


@settings(max_examples=100)
@given(cases())
@example(Case(1, 1, 4, 8, UpscaleSettings(scale=8.0, unet_tile=1, unet_overlap=0, vae_tile=1, vae_overlap=0)))
@example(Case(1, 70, 3, 4, UpscaleSettings(long_edge=280, unet_tile=40, unet_overlap=20, vae_tile=6)))
@example(Case(70, 2, 3, 8, UpscaleSettings(scale=7.9, unet_tile=300, vae_tile=46, vae_overlap=22)))
@example(Case(15, 20, 4, 4, UpscaleSettings(short_edge=60, unet_tile=1, unet_overlap=0, vae_tile=9, vae_overlap=4)))
@example(Case(70, 70, 3, 8, UpscaleSettings(scale=4.0, unet_tile=128, unet_overlap=7, vae_tile=96, vae_overlap=48)))
def test_any_image_and_settings_give_the_exact_size(
    make_host: Callable[..., Any], tiny_lora: DfosdLora, case: Case
) -> None:
    height, width, channels, factor, choice = case
    host = make_host(factor)
    generator = torch.Generator().manual_seed(height * 71 + width)
    batch = torch.rand(2, height, width, channels, generator=generator)
    result = upscale(batch, host, tiny_lora, choice)
    size = [expected_edge(edge, height, width, choice) for edge in (height, width)]
    if choice.width and choice.height:
        size = [choice.height, choice.width]
    assert list(result.shape) == [2, *size, channels]
    assert torch.isfinite(result).all()
    assert result.min() >= 0.0
    assert result.max() <= 1.0
    assert torch.equal(upscale(batch[1:], host, tiny_lora, choice), result[1:])
