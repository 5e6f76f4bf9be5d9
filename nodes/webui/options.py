"""DFOSD's page in the WebUI's settings: what the upscaler drop-downs use, which have no settings of their own."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import shared  # pyright: ignore[reportMissingImports]

from ...dfosd_core.settings import COLOR_FIX_NAMES, UpscaleSettings
from .files import AUTOMATIC, base_names, lora_names

SECTION = ("dfosd", "DFOSD")
DEFAULTS = {
    "dfosd_lora": AUTOMATIC,
    "dfosd_base": AUTOMATIC,
    "dfosd_color_fix": "wavelet",
    "dfosd_strength": 1.0,
    "dfosd_unet_tile": -1,
    "dfosd_vae_tile": -1,
    "dfosd_keep_models": True,
    "dfosd_megapixels": 100,
}


def option(name: str) -> Any:
    """The user's value. Before the settings page was built the WebUI knows none, nor with --nowebui."""
    return getattr(shared.opts, f"dfosd_{name}", DEFAULTS[f"dfosd_{name}"])


def upscaler_settings(scale: float) -> UpscaleSettings:
    """What an upscaler drop-down runs with. Raises ConfigError."""
    tiles = {name: int(option(name)) for name in ("unet_tile", "vae_tile") if int(option(name)) >= 0}
    return UpscaleSettings(scale=scale, color_fix=option("color_fix"), strength=float(option("strength")), **tiles)


def add_options() -> None:
    """The settings page. Old WebUIs know no categories."""
    tile = {"minimum": -1, "maximum": 4096, "step": 64}
    page = {
        "lora": ("Model of the upscaler in the drop-downs", gr.Dropdown, lambda: {"choices": lora_names()}),
        "base": ("Base for it", gr.Dropdown, lambda: {"choices": base_names()}),
        "color_fix": ("Colour fix", gr.Radio, {"choices": list(COLOR_FIX_NAMES)}),
        "strength": ("LoRA strength", gr.Slider, {"minimum": 0.0, "maximum": 2.0, "step": 0.05}),
        "unet_tile": ("Largest UNet tile in pixels (-1: automatic, 0: no tiles)", gr.Slider, tile),
        "vae_tile": ("Largest VAE tile in pixels (-1: automatic, 0: no tiles)", gr.Slider, tile),
        "keep_models": ("Keep DFOSD's own networks in memory between runs", gr.Checkbox, {}),
        "megapixels": (
            "Largest result in megapixels, for the tab and the API",
            gr.Slider,
            {"minimum": 1, "maximum": 1000, "step": 1},
        ),
    }
    for name, (label, component, arguments) in page.items():
        common = {"section": SECTION}
        try:
            info = shared.OptionInfo(
                DEFAULTS[f"dfosd_{name}"], label, component, arguments, category_id="postprocessing", **common
            )
        except TypeError:
            info = shared.OptionInfo(DEFAULTS[f"dfosd_{name}"], label, component, arguments, **common)
        shared.opts.add_option(f"dfosd_{name}", info)
