"""The LoRA that a run starts from (`model.init_lora`): DFOSD's, or another method's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.lora.file import DfosdLora, ImportedLora, load_lora
from dfosd_core.lora.metadata import BaseLayout, check_base
from dfosd_core.lora.open import open_lora
from dfosd_core.networks.reading import read_empty_prompt
from dfosd_core.one_step import PREDICTION_RULES
from dfosd_core.training.generator import DfosdGenerator

RULE = PREDICTION_RULES[0]
"""The paper's, and the only one that is trained."""


def open_start(path: Path) -> DfosdLora | ImportedLora:
    """Raises ConfigError, one line."""
    try:
        return open_lora(path)
    except DfosdError as error:
        raise ConfigError(f"model.init_lora: {error}") from error


def open_pixel(path: Path) -> DfosdLora:
    """The LoRA that a run adds a part to (`model.pixel_lora`). Raises ConfigError, one line."""
    try:
        return load_lora(path)
    except DfosdError as error:
        raise ConfigError(f"model.pixel_lora: {error}") from error


def complete_start(start: DfosdLora | ImportedLora, base: Path, layout: BaseLayout, name: str) -> DfosdLora:
    """With the empty text's embedding by the base's own text encoder, where it holds no prompt.

    Raises ConfigError, one line, for a LoRA of another base or a base without text encoder.
    """
    try:
        check_base(start.metadata.base_layout, layout)
        if isinstance(start, DfosdLora):
            return start
        return start.with_prompt(read_empty_prompt(base, layout.context_dim))
    except DfosdError as error:
        raise ConfigError(f"model.init_lora {name}: {error}") from error


def start_notes(
    start: DfosdLora, generator: DfosdGenerator, errors: Mapping[str, float], setting: str = "model.init_lora"
) -> list[str]:
    """What became of it, for the user. errors: from `DfosdGenerator.load_lora`; setting: what named the LoRA."""
    about, notes = start.metadata, list[str]()
    if (about.timestep, about.rule) != (generator.t, RULE):
        notes.append(
            f"Warning: {setting} was trained at timestep {about.timestep} with the rule {about.rule}; this run "
            f"uses timestep {generator.t} and {RULE}."
        )
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        notes.append(
            f"{setting}: {len(errors)} layers are cut to rank {generator.rank}; relative error of the weights' "
            f"change: worst {errors[worst]:.4f} ({worst}), mean {sum(errors.values()) / len(errors):.4f}."
        )
    more = generator.untrained
    if more is not None:
        names = sorted({*more.pairs, *more.set_weights, *more.set_biases})
        notes.append(
            f"{setting}: {len(names)} layers that are not trained stay as they are, also in the exported LoRA, "
            f"first {names[0]}."
        )
    return notes
