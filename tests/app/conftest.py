"""Small pictures, and runs over them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.held_engine import HeldEngine

from dfosd_core.app.limits import Limits
from dfosd_core.app.runner import Request, Run, Workplace
from dfosd_core.settings import UpscaleSettings


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """Writes a random RGB picture."""

    def make(name: str = "photo.png", width: int = 9, height: int = 6, folder: str = "in") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(samples).save(path)
        return path

    return make


@pytest.fixture
def make_run(tmp_path: Path, engine: HeldEngine) -> Callable[..., Run]:
    """A run over files, not started."""
    lock = threading.Lock()
    for name in ("results", "previews", "kept"):
        (tmp_path / name).mkdir()

    def make(*files: Path, limits: Limits | None = None, keep: bool = False, **settings: float) -> Run:
        workplace = Workplace(
            engine=engine,
            results=tmp_path / "results",
            previews=tmp_path / "previews",
            keep=tmp_path / "kept" if keep else None,
            limits=limits or Limits(),
            lock=lock,
        )
        return Run(workplace, Request(settings=UpscaleSettings(**settings)), files)  # type: ignore[arg-type]

    return make
