"""UpscaleSettings as ComfyUI's widgets, and back. No host is imported here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...dfosd_core.settings import UpscaleSettings

Inputs = dict[str, tuple[Any, dict[str, Any]]]
"""As in INPUT_TYPES: name -> (type or choices, options)."""

_TILES = dict.fromkeys(("unet_tile", "unet_overlap", "vae_tile", "vae_overlap"), -1)
_TARGETS = dict.fromkeys(("long_edge", "short_edge", "megapixels", "width", "height"), 0)
NOT_GIVEN: dict[str, float] = {**_TARGETS, **_TILES, "pixel_strength": -1}
"""A widget always has a number; this one stands for None. 0 means "no tiles" for a tile, so there it is -1."""
SIZES = ("megapixels", "width", "height", "fit")
LATER = ("pixel_strength", *SIZES)
"""Added after the first release: optional, because workflows and API calls were saved without them."""
ADVANCED = (*_TILES, "pixel_strength")
"""Rarely changed: the host's page shows them when asked to."""


def settings_inputs(*names: str) -> Inputs:
    """A widget for each of these fields, in the fields' order, with their defaults, limits and help.

    No names: all but `LATER`, which come behind all others.
    """
    inputs: Inputs = {}
    for field in fields(UpscaleSettings):
        if field.name not in names if names else field.name in LATER:
            continue
        facts = field.metadata
        tooltip: dict[str, Any] = {"tooltip": _help(field.name, facts["help"])}
        if field.name in ADVANCED:
            tooltip["advanced"] = True
        if "choices" in facts:
            inputs[field.name] = (list(facts["choices"]), {"default": field.default, **tooltip})
            continue
        least, default = NOT_GIVEN.get(field.name, facts["min"]), NOT_GIVEN.get(field.name, field.default)
        limits = {"default": default, "min": least, "max": facts["max"]}
        if isinstance(facts["step"], int):
            # The page rounds to whole steps, counted from the least value: any step but 1 would shut out 0 here.
            inputs[field.name] = ("INT", {**limits, "step": 1, **tooltip})
        else:
            # The page shows as many decimals as 10 to the step's power has: 1.25 would read 1.3 under a step of 0.25.
            inputs[field.name] = ("FLOAT", {**limits, "step": 0.05, "round": 0.001, **tooltip})
    return inputs


def _help(name: str, text: str) -> str:
    """The setting's help, with the number that stands for its default."""
    if name not in NOT_GIVEN:
        return text
    number, automatic = NOT_GIVEN[name], "Default: automatic."
    return text.replace(automatic, f"{number}: automatic.") if automatic in text else f"{text} {number}: not given."


def settings_from(values: dict[str, Any]) -> UpscaleSettings:
    """The settings that the widgets' values mean. Raises ConfigError."""
    names = {field.name for field in fields(UpscaleSettings)}
    given = {name: value for name, value in values.items() if name in names and value != NOT_GIVEN.get(name)}
    return UpscaleSettings.from_values(given)
