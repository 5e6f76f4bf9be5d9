"""What may change between a run's start and its resumption, setting by setting.

refuse  it decides what the saved tensors or the order of the samples mean; the run cannot go on with another value
warn    the new value counts from here on, and the log says so
allow   the new value counts; it changes nothing in what is learned but rounding
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from dfosd_core.errors import ConfigError

from .config import TrainConfig, plain_config, plain_values

Rule = Literal["refuse", "warn", "allow"]

RULES: dict[str, Rule] = {
    "model.base": "refuse",
    "model.init_lora": "refuse",
    "model.pixel_lora": "refuse",
    "model.rank": "refuse",
    "model.lora_alpha": "refuse",
    "model.timestep": "refuse",
    "model.prompt_tokens": "refuse",
    "data.photos": "warn",
    "data.crop": "warn",
    "data.presets": "warn",
    "data.batch_size": "refuse",  # sample k is step * batch_size + position: others would come twice or never
    "data.micro_batch": "allow",
    "data.workers": "allow",
    "loss.perceptual": "warn",
    "loss.vgg": "warn",
    "loss.lambda_1": "warn",
    "loss.adversarial_share": "warn",
    "loss.lambda_2": "warn",
    "loss.lambda_cycle": "warn",
    "loss.lambda_direction": "warn",
    "loss.perceptual_from": "warn",
    "discriminator.kind": "refuse",
    "discriminator.base": "refuse",
    "discriminator.head": "refuse",
    "discriminator.rank": "refuse",
    "discriminator.lora_alpha": "refuse",
    "discriminator.lr": "warn",
    "discriminator.from_step": "warn",
    "discriminator.warmup_steps": "warn",
    "discriminator.t_noise_min": "warn",
    "discriminator.t_noise_max": "warn",
    "optim.steps": "warn",  # a longer run; a cosine is stretched from here on
    "optim.lr": "warn",
    "optim.schedule": "warn",
    "optim.warmup_steps": "warn",
    "optim.beta_1": "warn",
    "optim.beta_2": "warn",
    "optim.weight_decay": "warn",
    "optim.clip": "warn",
    "optim.ema": "warn",
    "validation.pairs": "warn",  # the best score so far was of other pairs, see best_still_counts
    "validation.every": "allow",
    "validation.count": "warn",
    "validation.best_by": "warn",
    "run.out": "allow",
    "run.seed": "refuse",
    "run.device": "allow",
    "run.precision": "warn",
    "run.base_dtype": "allow",
    "run.gradient_checkpointing": "allow",
    "run.channels_last": "allow",
    "run.compile": "allow",
    "run.checkpoint_every": "allow",
    "run.keep_checkpoints": "allow",
    "run.log_every": "allow",
    "run.wandb": "allow",
}
"""Dotted name of each setting -> what happens when it has changed."""

MOVABLE = ("model.base", "model.init_lora", "model.pixel_lora", "discriminator.base")
"""Paths that are refused by their last name only: the same files may lie elsewhere on another machine."""

SCORED_BY = ("validation.pairs", "validation.count", "validation.best_by", "loss.vgg")


def check_resume(old: Mapping[str, Any], new: TrainConfig, warn: Callable[[str], None]) -> TrainConfig:
    """Return the configuration to go on with: `new`, after `warn` had a line for each setting that is worth one.

    old: `plain_config` of the run so far. A setting it lacks had its default; one that is gone is passed over.
    Raises ConfigError, one line that names every change that is refused.
    """
    refused: list[str] = []
    for name, before, after in _changes(old, new):
        if RULES[name] == "refuse":
            refused.append(f"{name} was {_text(before)} and is now {_text(after)}")
        elif RULES[name] == "warn":
            warn(f"{name} changes from {_text(before)} to {_text(after)}.")
    if refused:
        raise ConfigError(
            f"The run in '{new.run.out}' cannot go on: {'; '.join(refused)}. "
            "Set it as it was, or give another run.out to start afresh."
        )
    return new


def best_still_counts(old: Mapping[str, Any], new: TrainConfig) -> bool:
    """Whether the best score so far can be compared with those to come: same pairs, same metric."""
    return not any(name in SCORED_BY for name, _, _ in _changes(old, new))


def _changes(old: Mapping[str, Any], new: TrainConfig) -> Iterator[tuple[str, Any, Any]]:
    for section, values in plain_config(new).items():
        default = plain_values(type(getattr(new, section))())
        for field, after in values.items():
            name = f"{section}.{field}"
            before = old.get(section, {}).get(field, default[field])
            if _comparable(name, before) != _comparable(name, after):
                yield name, before, after


def _comparable(name: str, value: Any) -> Any:
    # Either system's separators: a run may move from one to the other.
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if name in MOVABLE and isinstance(value, str) else value


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
