"""A base with its text encoder as folder and as checkpoint, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.peers import write_base, write_checkpoint

from dfosd_core.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sd` and `sd.safetensors`, the same base twice."""
    folder = tmp_path_factory.mktemp("models")
    write_base(folder / "sd")
    write_checkpoint(folder / "sd.safetensors")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`dfosd` with these words; returns (exit code, standard output, standard error)."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
