"""A small set with a peer's results, and `evaluate` called on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train_tools import evaluate

NAMES = ("a", "b", "c")
Run = Callable[..., int]


def write(path: Path, size: tuple[int, int], seed: int) -> None:
    """A picture of soft noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)


def write_set(folder: Path) -> Path:
    """Three pairs, 12x8 to 48x32, and a peer's results beside them."""
    for seed, name in enumerate(NAMES):
        write(folder / "LR" / f"{name}.png", (12, 8), seed)
        write(folder / "HR" / f"{name}.png", (48, 32), seed)
        write(folder / "peer" / f"{name}.png", (48, 32), seed + 1)
    return folder


def runner(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`evaluate` by its command line, on the CPU in float32."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments), "--device", "cpu", "--dtype", "float32"])
        return evaluate.main()

    return call
