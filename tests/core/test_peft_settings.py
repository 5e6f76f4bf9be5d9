"""With which of PEFT's settings a LoRA is alpha / r * B @ A and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig

from dfosd_core.lora.importers.peft_settings import unusual_setting


def settings(**changes: Any) -> dict[str, Any]:
    """As PEFT itself writes them."""
    return LoraConfig(r=4, target_modules=["conv1"], **changes).to_dict() | {"peft_type": "LORA"}


def test_peft_own_defaults_are_plain() -> None:
    assert unusual_setting(settings()) is None
    assert unusual_setting(settings(init_lora_weights="gaussian")) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": "pissa"},  # takes the largest singular values out of the base's weights
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"conv1": 8}},
        {"alpha_pattern": {"conv1": 8}},
        {"modules_to_save": ["conv_in"]},
    ],
)
def test_others_are_named_unless_the_caller_deals_with_them(changes: dict[str, Any]) -> None:
    (name,) = changes
    assert unusual_setting(settings(**changes)) == name
    assert unusual_setting(settings(**changes), but=(name,)) is None


@pytest.mark.parametrize("plain", [True, False, "gaussian", None])
def test_how_the_loras_own_start_was_drawn_does_not_matter(plain: Any) -> None:
    assert unusual_setting(settings() | {"init_lora_weights": plain}) is None
