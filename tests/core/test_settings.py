from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dfosd_core.color_fix import COLOR_FIXES
from dfosd_core.errors import ConfigError
from dfosd_core.settings import COLOR_FIX_NAMES, ModelChoice, UpscaleSettings
from dfosd_core.sizes import Placement, Size
from dfosd_core.tiles.size import TileSettings, TileSize


def test_every_setting_has_help_and_limits_that_hold_its_default() -> None:
    for field in dataclasses.fields(UpscaleSettings):
        limits = field.metadata
        assert limits["help"].endswith(".")
        if "choices" in limits:
            assert field.default in limits["choices"]
        else:
            assert limits["step"] > 0
            assert field.default is None or limits["min"] <= field.default <= limits["max"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.5}, "Expected scale from 1 to 8, found 0.5."),
        ({"scale": float("nan")}, "Expected scale from 1 to 8, found nan."),
        ({"scale": None}, "Expected scale from 1 to 8, found None."),
        ({"strength": 3.0}, "Expected strength from 0 to 2, found 3.0."),
        ({"pixel_strength": -0.1}, "Expected pixel_strength from 0 to 2, found -0.1."),
        ({"color_fix": "hsv"}, "Expected color_fix to be one of wavelet, adain, lab, none, found 'hsv'."),
        ({"long_edge": 0}, "Expected long_edge a whole number from 1 to 65536, found 0."),
        ({"unet_tile": -1}, "Expected unet_tile a whole number from 0 to 8192, found -1."),
        ({"vae_tile": 96.5}, "Expected vae_tile a whole number from 0 to 8192, found 96.5."),
        ({"long_edge": 9, "short_edge": 8}, "found long_edge 9 and short_edge 8. Give only one of them."),
        ({"megapixels": 2.0, "short_edge": 8}, "found short_edge 8 and megapixels 2. Give only one of them."),
        ({"megapixels": 2.0, "width": 9, "height": 9}, "found megapixels 2 and width 9. Give only one of them."),
        ({"width": 9}, "found width 9 alone. Give a height too, or use long_edge or short_edge."),
        ({"height": 9, "long_edge": 9}, "found height 9 alone. Give a width too"),
        ({"megapixels": 0.0}, "Expected megapixels from 0.01 to 1000, found 0.0."),
        ({"width": 9, "height": 0}, "Expected height a whole number from 1 to 65536, found 0."),
        ({"fit": "fill"}, "Expected fit to be one of crop, pad, found 'fill'."),
        (
            {"unet_tile": 64, "unet_overlap": 33},
            "Expected a unet_overlap of at most half the unet_tile (32), found 33.",
        ),
        ({"vae_tile": 64, "vae_overlap": 64}, "found 64. Enlarge vae_tile or reduce vae_overlap."),
    ],
)
def test_values_outside_their_limits_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UpscaleSettings(**settings)
    assert message in str(caught.value)


def test_overlap_may_be_half_the_tile() -> None:
    assert UpscaleSettings(unet_tile=64, unet_overlap=32, vae_tile=65, vae_overlap=32).unet_overlap == 32


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({}, (128, 96), (512, 384)),
        ({"scale": 1.0}, (7, 5), (7, 5)),
        ({"scale": 1.25}, (1, 3), (1, 4)),
        ({"scale": 2.7}, (10, 101), (27, 273)),
        ({"long_edge": 2048}, (683, 1024), (1366, 2048)),
        ({"short_edge": 1080}, (1000, 333), (3243, 1080)),
        ({"long_edge": 8}, (1, 1), (8, 8)),
        ({"long_edge": 400, "scale": 2.0}, (1, 400), (1, 400)),
        ({"megapixels": 2.0736}, (540, 960), (1080, 1920)),
        ({"megapixels": 8.0, "scale": 2.0}, (1000, 1000), (2828, 2828)),
        ({"megapixels": 1.0}, (1000, 1000), (1000, 1000)),
        ({"megapixels": 64.0}, (1000, 1000), (8000, 8000)),
        ({"megapixels": 0.1}, (3, 10000), (5, 18257)),
        ({"width": 1920, "height": 1080}, (1000, 1000), (1080, 1920)),
        ({"width": 8, "height": 8, "fit": "pad"}, (1, 1), (8, 8)),
    ],
)
def test_output_size_is_rounded_and_exact(
    settings: dict[str, Any], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert UpscaleSettings(**settings).output_size(*size) == expected


@pytest.mark.parametrize(("edge", "target"), [("long_edge", 199), ("long_edge", 1601), ("short_edge", 99)])
def test_target_out_of_reach_is_refused(edge: str, target: int) -> None:
    choice: dict[str, Any] = {edge: target}
    settings = UpscaleSettings(**choice)
    with pytest.raises(ConfigError) as caught:
        settings.output_size(100, 200)
    lowest = 200 if edge == "long_edge" else 100
    assert f"Expected a {edge} from {lowest} to {8 * lowest} for a 200x100 image (1 to 8 times its own)" in str(
        caught.value
    )
    assert f"found {target}. Change {edge} or use scale." in str(caught.value)


@pytest.mark.parametrize(
    ("fit", "own", "scaled", "cut", "bars"),
    [
        ("crop", (100, 100), (192, 192), (42, 0), (0, 0)),
        ("pad", (100, 100), (108, 108), (0, 0), (0, 42)),
        ("crop", (54, 96), (108, 192), (0, 0), (0, 0)),
        ("pad", (54, 96), (108, 192), (0, 0), (0, 0)),
        ("crop", (100, 90), (213, 192), (52, 0), (0, 0)),
        ("pad", (25, 99), (48, 192), (0, 0), (30, 0)),
    ],
)
def test_exact_size_is_filled_or_has_bars_on_two_sides(
    fit: str, own: tuple[int, int], scaled: tuple[int, int], cut: tuple[int, int], bars: tuple[int, int]
) -> None:
    placed = UpscaleSettings(width=192, height=108, fit=fit).placement(*own)
    assert (placed.scaled, placed.output) == (scaled, (108, 192))
    assert (placed.cut, placed.bars) == (cut, bars)
    assert placed.is_whole == (scaled == (108, 192))
    assert placed.reduced_to((54, 96)).output == (54, 96)


@pytest.mark.parametrize(
    ("scaled", "whole", "output", "reduced"),
    [
        ((40, 30), (40, 20), (4, 2), (4, 3)),
        ((1, 400), (100, 400), (10, 40), (1, 40)),
        ((400, 1), (400, 100), (40, 10), (40, 1)),
    ],
)
def test_placement_of_a_smaller_picture(scaled: Size, whole: Size, output: Size, reduced: Size) -> None:
    assert Placement(scaled, whole).reduced_to(output) == Placement(reduced, output)


def test_strengths_go_from_0_to_2_by_twentieths() -> None:
    fields = UpscaleSettings.__dataclass_fields__
    for name in ("strength", "pixel_strength"):
        assert [fields[name].metadata[key] for key in ("min", "max", "step")] == [0.0, 2.0, 0.05]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"megapixels": 0.019}, "Expected megapixels from 0.02 to 1.28 for a 200x100 image (1 to 8 times its edges)"),
        ({"megapixels": 1.29}, "found 1.29. Change megapixels or use scale."),
        (
            {"width": 200, "height": 99, "fit": "pad"},
            "Expected a width and height that take 1 to 8 times a 200x100 image (fit pad), found 200x99, "
            "which take 0.99 times. Change them or use scale.",
        ),
        ({"width": 1601, "height": 100}, "(fit crop), found 1601x100, which take 8.005 times."),
        ({"width": 199, "height": 99}, "(fit crop), found 199x99, which take 0.995 times."),
    ],
)
def test_size_out_of_reach_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UpscaleSettings(**settings).placement(100, 200)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_given_tiles_replace_the_hosts() -> None:
    auto = TileSettings(encode=TileSize(512, 64), unet=TileSize(0, 0), decode=TileSize(256, 32))
    assert UpscaleSettings().tiles(auto) == auto
    given = UpscaleSettings(unet_tile=96, vae_overlap=16).tiles(auto)
    assert given == TileSettings(encode=TileSize(512, 16), unet=TileSize(96, 24), decode=TileSize(256, 16))
    assert UpscaleSettings(vae_tile=0).tiles(auto).encode == TileSize(0, 64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"scale": None, "color_fix": "", "unet_tile": " "}, {}),
        ({"scale": " 2.5 ", "long_edge": "", "color_fix": " lab "}, {"scale": 2.5, "color_fix": "lab"}),
        ({"pixel_strength": "0.5"}, {"pixel_strength": 0.5}),
        ({"unet_tile": "0", "vae_tile": 512.0, "strength": 1}, {"unet_tile": 0, "vae_tile": 512, "strength": 1}),
    ],
)
def test_loose_values_become_settings(values: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = UpscaleSettings.from_values(values)
    assert settings == UpscaleSettings(**expected)
    assert settings.unet_tile is None or type(settings.unet_tile) is int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 2}, "There is no setting 'size'. Settings are scale, long_edge, "),
        ({"scale": "nan"}, "Expected scale from 1 to 8, found nan."),
        ({"scale": "wide"}, "Expected scale from 1 to 8, found wide."),
        ({"scale": True}, "Expected scale from 1 to 8, found True."),
        ({"unet_tile": "64.5"}, "Expected unet_tile a whole number from 0 to 8192, found 64.5."),
        ({"color_fix": ["lab"]}, "Expected color_fix to be one of wavelet, adain, lab, none, found '['lab']'."),
    ],
)
def test_loose_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UpscaleSettings.from_values(values)
    assert message in str(caught.value)


def test_base_without_a_lora_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Expected a DFOSD LoRA trained on the base 'sd21', found none"):
        ModelChoice(base="models/sd21")


def test_color_fix_choices_are_the_functions_there_are() -> None:
    assert [(name, fix.__name__) for name, fix in COLOR_FIXES.items()] == [(name, name) for name in COLOR_FIX_NAMES]
