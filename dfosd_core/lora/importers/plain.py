"""Ordinary LoRAs in kohya's, PEFT's and diffusers' names. They do not say how an upscaler uses them: the user does.

So no detection belongs here, and none of IMPORTERS is this one: `exchange/convert.py` reads such a file on request.
Alpha comes from the `.alpha` tensors, else from PEFT's settings where they are at hand, else it is the rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, cast

from torch import Tensor

from ...errors import LoraFormatError, one_line
from ..changes import LoraPair
from ..file import group_layers
from .content import Content
from .peft_settings import ADAPTER_CONFIG, unusual_setting

_HEADER_CONFIG = "lora_adapter_metadata"
"""diffusers' entry in a safetensors header: PEFT's settings, each with the network's name before it."""

_TEXT_ENCODER = re.compile(r"(lora_te\d?_|text_encoder|text_model|te\d?\.|.*\btext_model\.)")
_DIFFUSERS = re.compile(r"(.+)\.lora(?:_linear_layer)?\.(down|up)\.weight")
_OLD_DIFFUSERS = re.compile(r"(.+)\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight")
_DIFFERENCE = re.compile(r"(lora_(?:unet|vae)_\w+)\.(diff|diff_b)")
_HALVES = {"down": "A", "up": "B"}


class PlainLora(NamedTuple):
    """What an ordinary LoRA changes; the keys are kohya layer names."""

    pairs: dict[str, LoraPair]
    set_weights: dict[str, Tensor]
    set_biases: dict[str, Tensor]
    diffs: dict[str, Tensor]
    """Added to a weight in full."""
    bias_diffs: dict[str, Tensor]
    """Added to a bias."""
    states_alpha: bool
    """Else alpha was taken to be the rank."""


def read_plain(content: Content) -> PlainLora:
    """Raises LoraFormatError, one line, for a file with anything else in it, or with layers of the text encoder."""
    settings = _peft_settings(content)
    tensors = Content(
        name=content.name,
        values={key: value for key, value in content.values.items() if key != ADAPTER_CONFIG},
        sha256=content.sha256,
    ).tensors()
    _refuse_text_encoder(content.name, tensors)
    differences = {key: match for key in tensors if (match := _DIFFERENCE.fullmatch(key))}
    rest = {_peft_spelling(key): value for key, value in tensors.items() if key not in differences}
    layers = group_layers(rest, content.name)
    paired = {layer: parts for layer, parts in layers.items() if not parts.keys() & {"set_weight", "set_bias"}}
    of_part = {
        part: {match[1]: tensors[key] for key, match in differences.items() if match[2] == part}
        for part in ("diff", "diff_b")
    }
    # kohya's tools write an alpha beside a `.diff`, where it means nothing.
    needless = [layer for layer, parts in paired.items() if set(parts) == {"alpha"} and layer in of_part["diff"]]
    pairs = {
        layer: _pair(content.name, layer, parts, settings) for layer, parts in paired.items() if layer not in needless
    }
    return PlainLora(
        pairs=pairs,
        set_weights={layer: parts["set_weight"] for layer, parts in layers.items() if "set_weight" in parts},
        set_biases={layer: parts["set_bias"] for layer, parts in layers.items() if "set_bias" in parts},
        diffs=of_part["diff"],
        bias_diffs=of_part["diff_b"],
        states_alpha=settings is not None or all("alpha" in paired[layer] for layer in pairs),
    )


def _refuse_text_encoder(name: str, tensors: Mapping[str, Tensor]) -> None:
    found = [key for key in tensors if _TEXT_ENCODER.match(key)]
    if found:
        raise LoraFormatError(
            f"'{name}' changes the text encoder too ({len(found)} of {len(tensors)} tensors, first "
            f"{one_line(found[0])}): DFOSD uses one fixed prompt and runs no text encoder, so they would be lost. "
            "Give one of the UNet alone."
        )


def _peft_spelling(key: str) -> str:
    """diffusers' names as PEFT has them; others as they are."""
    if match := _OLD_DIFFUSERS.fullmatch(key):
        layer = f"{match[2]}.0" if match[2] == "to_out" else match[2]
        return f"{match[1]}.{layer}.lora_{_HALVES[match[3]]}.weight"
    if match := _DIFFUSERS.fullmatch(key):
        return f"{match[1]}.lora_{_HALVES[match[2]]}.weight"
    return key


def _pair(name: str, layer: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any] | None) -> LoraPair:
    if not {"down", "up"} <= parts.keys():
        _refuse(name, f"expected both halves of a LoRA on {layer}, found {' and '.join(sorted(parts))}")
    rank = parts["down"].shape[0] if parts["down"].ndim else 0
    if not rank or not parts["up"].numel():
        _refuse(name, f"expected matrices on {layer}, found empty ones")
    if "alpha" in parts:
        if parts["alpha"].numel() != 1:
            _refuse(name, f"expected one number as alpha of {layer}, found {parts['alpha'].numel()}")
        alpha = float(parts["alpha"])
    elif settings is None:
        alpha = float(rank)
    else:  # rsLoRA divides by the root of the rank
        alpha = float(settings["lora_alpha"]) * (rank**0.5 if settings.get("use_rslora") else 1.0)
    try:
        return LoraPair(down=parts["down"], up=parts["up"], alpha=alpha)
    except (ValueError, IndexError) as error:
        _refuse(name, f"expected a low-rank pair on {layer}, found that {error}")


def _peft_settings(content: Content) -> dict[str, Any] | None:
    """PEFT's `LoraConfig`, None where the file does not have it."""
    settings = cast("object", content.values.get(ADAPTER_CONFIG))
    if settings is None and _HEADER_CONFIG in content.header:
        try:
            stated = cast("object", json.loads(content.header[_HEADER_CONFIG]))
        except (ValueError, RecursionError):
            stated = None
        entries = cast("dict[str, Any]", stated) if isinstance(stated, dict) else {}
        settings = {key.removeprefix("unet."): value for key, value in entries.items() if key.startswith("unet.")}
    if settings is None:
        return None
    found = cast("dict[str, Any]", settings) if isinstance(settings, dict) else {}
    alpha = found.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        _refuse(content.name, f"expected a number as lora_alpha in PEFT's settings, found {one_line(str(alpha))}")
    if other := unusual_setting(found, but=("use_rslora", "rank_pattern")):
        _refuse(content.name, f"expected a plain LoRA, found PEFT's {other}")
    return found


def _refuse(name: str, what: str) -> NoReturn:
    raise LoraFormatError(f"'{name}' is no LoRA that can be converted: {what}. Get the file again, or another.")
