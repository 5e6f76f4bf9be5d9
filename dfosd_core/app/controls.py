"""The fields of `UpscaleSettings` as Gradio's controls: names, limits, defaults and help all come from there.

Only what Gradio 3.41, 4.40 and today's have in common, called by the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, cast

import gradio as gr

from ..settings import UpscaleSettings

_FIELDS = {field.name: field for field in fields(UpscaleSettings)}
ORDER = tuple(_FIELDS)
FIRST = ("scale", "color_fix")
"""What is always in sight."""
ROWS = (
    ("long_edge", "short_edge", "megapixels"),
    ("width", "height", "fit"),
    ("unet_tile", "unet_overlap"),
    ("vae_tile", "vae_overlap"),
    ("strength", "pixel_strength"),
)
"""What is folded away, and what stands side by side there."""
_WORDS = {"unet": "UNet", "vae": "VAE", "color": "Colour"}


def draw_first(prefix: str) -> dict[str, Any]:
    """field -> control, for what is always in sight, into the current Gradio block."""
    return _draw(FIRST, prefix)


def draw_others(prefix: str) -> dict[str, Any]:
    """field -> control, for the rest, folded away."""
    drawn: dict[str, Any] = {}
    with gr.Accordion("More settings", open=False, elem_id=f"{prefix}_more"):
        for names in ROWS:
            with gr.Row():
                drawn |= _draw(names, prefix)
    return drawn


def _draw(names: Sequence[str], prefix: str) -> dict[str, Any]:
    return {name: _control(_FIELDS[name], f"{prefix}_{name}") for name in names}


def settings_of(values: Sequence[Any]) -> UpscaleSettings:
    """The controls' values, in the order of the fields. Raises ConfigError for one outside its limits."""
    return UpscaleSettings.from_values(dict(zip(ORDER, values, strict=True)))


def _control(field: Field[Any], elem_id: str) -> Any:
    limits, default = field.metadata, cast("Any", field.default)
    common: dict[str, Any] = {"label": _label(field.name), "info": limits["help"], "elem_id": elem_id}
    if "choices" in limits:
        return gr.Radio(choices=list(limits["choices"]), value=default, **common)
    if default is None:
        # Empty: not given. A number box cannot say that: Gradio 3 and 4 read an empty one as 0.
        placeholder = "automatic" if "automatic" in limits["help"] else ""
        return gr.Textbox("", placeholder=placeholder, max_lines=1, min_width=140, **common)
    return gr.Slider(limits["min"], limits["max"], default, step=limits["step"], **common)


def _label(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])
