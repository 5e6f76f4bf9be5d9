"""A tiny random model on disk, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_models import random_lora, tiny_host, write_folder

from dfosd_core.cli.main import main
from dfosd_core.lora.file import save_lora

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags that choose a tiny base and its LoRA."""
    folder = tmp_path_factory.mktemp("model")
    host = tiny_host()
    base = write_folder(folder / "base", host, {"prediction_type": "epsilon"})
    lora = save_lora(folder / "lora.safetensors", random_lora(host))
    return ["--base", str(base), "--lora", str(lora), "--device", "cpu"]


@pytest.fixture
def run(model: list[str], capsys: pytest.CaptureFixture[str]) -> Run:
    """`dfosd upscale` with the tiny model; returns (exit code, standard output, standard error)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main(["upscale", *map(str, arguments), *model])
        except SystemExit as stop:  # argparse's way
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A 9x7 RGB PNG in an otherwise empty folder."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)).save(path)
    return path
