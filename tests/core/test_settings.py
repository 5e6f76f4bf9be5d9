from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dfosd_core.color_fix import COLOR_FIXES
from dfosd_core.errors import ConfigError
from dfosd_core.settings import COLOR_FIX_NAMES, ModelChoice, UpscaleSettings
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
