"""PEFT's folder: what its files are called, and with which settings alpha / r * B @ A is all that a LoRA does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""In a `Content` the settings stand beside the tensors, under the file's name."""
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base's weights too
    "alpha_pattern": ({},),
    "rank_pattern": ({},),
    "modules_to_save": ([],),
    **dict.fromkeys(("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out"), (False,)),
}


def unusual_setting(settings: Mapping[str, Any], but: Collection[str] = ()) -> str | None:
    """The first setting with which the LoRA does something else or more. but: those that the caller deals with."""
    others = (key for key, plain in _PLAIN.items() if settings.get(key) not in (None, *plain) and key not in but)
    return next(others, None)
