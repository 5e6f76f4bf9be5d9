"""The benchmark of a training step looks where a step's time goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training_runs import config

from benchmarks import train_speed


def test_every_part_of_a_step_is_seen_as_often_as_it_runs(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()

    def counted(function: Callable[..., Any], name: str, _spent: dict[str, float]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*args, **options)

        return run

    monkeypatch.setattr(train_speed, "_measured", counted)
    settings = config(material, tmp_path)
    recipe, crops = train_speed.build(settings)
    with train_speed.measured_parts(recipe, spent := {}):
        recipe.train_step(0, next(train_speed.some_batches(settings, crops, 1)))
    assert calls == {
        "encode x_lr and x_hr": 2,
        "UNet": 1,
        "decode": 1,
        "NAD, both steps": 2,  # z_sr for the generator; z_sr and z_hr at once for itself
        "generator's backward": 1,
        "generator's clipping and AdamW": 1,
        "discriminator's backward": 1,
        "discriminator's clipping and AdamW": 1,
    }
    assert spent.keys() == calls.keys()
    recipe.train_step(1, next(train_speed.some_batches(settings, crops, 1)))
    assert sum(calls.values()) == 10  # nothing is left behind
