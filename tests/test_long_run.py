"""A short form of `benchmarks/long_run.py`: memory stays, and the last result is the first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import long_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
FEW_PERCENT = 0.02
"""Few runs do not fill all caches."""


def test_many_images_in_one_process(tmp_path: Path) -> None:
    course = long_run.run_images(tmp_path, 60, (8, 8))
    assert len(course.marks) == 60
    assert course.same
    assert course.growth < FEW_PERCENT


def test_many_runs_in_one_pipeline() -> None:
    course = long_run.run_pipeline(60, 8)
    assert course.same
    assert course.growth < FEW_PERCENT


def test_leak_and_a_changed_result_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[torch.Tensor] = []

    def leaking(image: torch.Tensor, *_: Any) -> torch.Tensor:
        kept.append(torch.ones(2**19))  # 2 MiB
        return image + len(kept)

    monkeypatch.setattr(long_run, "upscale", leaking)
    course = long_run.run_pipeline(60, 8)
    assert not course.same
    assert course.growth > FEW_PERCENT
