"""UpscaleSettings as ComfyUI's widgets, and back. No host is imported here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...dfosd_core.settings import UpscaleSettings

Inputs = dict[str, tuple[Any, dict[str, Any]]]
"""As in INPUT_TYPES: name -> (type or choices, options)."""

NOT_GIVEN = {"long_edge": 0, "short_edge": 0, "unet_tile": -1, "unet_overlap": -1, "vae_tile": -1, "vae_overlap": -1}
"""A widget always has a number; this one stands for None. 0 means "no tiles" for a tile, so there it is -1."""


def settings_inputs() -> Inputs:
    """One widget for each field, in the fields' order, with their defaults, limits and help."""
    inputs: Inputs = {}
    for field in fields(UpscaleSettings):
        facts = field.metadata
        tooltip = {"tooltip": _help(field.name, facts["help"])}
        if "choices" in facts:
            inputs[field.name] = (list(facts["choices"]), {"default": field.default, **tooltip})
        elif field.name in NOT_GIVEN:
            # The page rounds to whole steps, counted from the least value: any step but 1 would shut out 0 here.
            limits = {"min": NOT_GIVEN[field.name], "max": facts["max"], "step": 1}
            inputs[field.name] = ("INT", {"default": NOT_GIVEN[field.name], **limits, **tooltip})
        else:
            # The page shows as many decimals as 10 to the step's power has: 1.25 would read 1.3 under a step of 0.25.
            limits = {"min": facts["min"], "max": facts["max"], "step": 0.05, "round": 0.001}
            inputs[field.name] = ("FLOAT", {"default": field.default, **limits, **tooltip})
    return inputs


def _help(name: str, text: str) -> str:
    """The setting's help, with the number that stands for its default."""
    if name not in NOT_GIVEN:
        return text
    number = NOT_GIVEN[name]
    return text.replace("Default: automatic.", f"{number}: automatic.") if number else f"{text} {number}: not given."


def settings_from(values: dict[str, Any]) -> UpscaleSettings:
    """The settings that the widgets' values mean. Raises ConfigError."""
    names = {field.name for field in fields(UpscaleSettings)}
    given = {name: value for name, value in values.items() if name in names and value != NOT_GIVEN.get(name)}
    return UpscaleSettings.from_values(given)
