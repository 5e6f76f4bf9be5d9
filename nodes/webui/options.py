"""DFOSD's page in the WebUI's settings: what the upscaler drop-downs use, which have no settings of their own."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import gradio as gr
from modules import shared  # pyright: ignore[reportMissingImports]

from ...dfosd_core.app.limits import Limits
from ...dfosd_core.settings import FULL_DECODER, UpscaleSettings
from .files import AUTOMATIC, base_names, decoder_names, lora_names

SECTION = ("dfosd", "DFOSD")
NOT_GIVEN = -1
"""A slider always has a number; this one stands for None."""
SETTINGS = ("color_fix", "strength", "pixel_strength", "unet_tile", "vae_tile")
"""Those of a run that are on the page; the scale comes from where the upscaler is used."""
_FIELDS = {field.name: field for field in fields(UpscaleSettings) if field.name in SETTINGS}
DEFAULTS: dict[str, Any] = {
    "lora": AUTOMATIC,
    "base": AUTOMATIC,
    "decoder": FULL_DECODER,
    **{name: NOT_GIVEN if field.default is None else field.default for name, field in _FIELDS.items()},
    "keep_models": True,
    "megapixels": Limits().megapixels,
}


def option(name: str) -> Any:
    """The user's value. Before the settings page was built the WebUI knows none, nor with --nowebui."""
    return getattr(shared.opts, f"dfosd_{name}", DEFAULTS[name])


def upscaler_settings(scale: float) -> UpscaleSettings:
    """What an upscaler drop-down runs with. Raises ConfigError."""
    given = {name: value for name in _FIELDS if (value := option(name)) != NOT_GIVEN}
    return UpscaleSettings.from_values({"scale": scale, **given})


def add_options() -> None:
    """The settings page. Old WebUIs know no categories."""
    page = {
        "lora": ("Model of the upscaler in the drop-downs", gr.Dropdown, lambda: {"choices": lora_names()}),
        "base": ("Base for it", gr.Dropdown, lambda: {"choices": base_names()}),
        "decoder": ("Decoder for it", gr.Dropdown, lambda: {"choices": decoder_names()}),
        **{name: _control(name) for name in _FIELDS},
        "keep_models": ("Keep DFOSD's own networks in memory between runs", gr.Checkbox, {}),
        "megapixels": (
            "Largest result in megapixels, for the tab and the API",
            gr.Slider,
            {"minimum": 1, "maximum": 1000, "step": 1},
        ),
    }
    for name, (label, component, arguments) in page.items():
        make = partial(shared.OptionInfo, DEFAULTS[name], label, component, arguments, section=SECTION)
        try:
            info = make(category_id="postprocessing")
        except TypeError:
            info = make()
        shared.opts.add_option(f"dfosd_{name}", info)


def _control(name: str) -> tuple[str, Any, dict[str, Any]]:
    """Label, component and limits of a setting, as its field states them."""
    limits, label = _FIELDS[name].metadata, _FIELDS[name].metadata["help"].removesuffix(".")
    if "choices" in limits:
        return label, gr.Radio, {"choices": list(limits["choices"])}
    if _FIELDS[name].default is None:
        automatic = "Default: automatic"
        meaning = f"{NOT_GIVEN}: {'automatic' if automatic in label else 'not used'}"
        label = label.replace(automatic, meaning) if automatic in label else f"{label}. {meaning}"
        # A page counts steps from the least value: larger ones than 1 would shut out 0.
        return label, gr.Slider, {"minimum": NOT_GIVEN, "maximum": limits["max"], "step": min(limits["step"], 1)}
    return label, gr.Slider, {"minimum": limits["min"], "maximum": limits["max"], "step": limits["step"]}
