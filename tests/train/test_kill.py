"""kill -9 at random moments, also while a checkpoint is written: nothing is lost beyond the last one.

DFOSD_KILLS=50 python -m pytest tests/train/test_kill.py     the full number; a few in the normal suite
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("DFOSD_KILLS", "3"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.timeout(1800)
def test_killed_runs_go_on_and_end_in_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "kill_runs.py"), str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)  # noqa: T201 - `pytest -s` shows how many kills hit a save
    assert report["kills"] == KILLS
    assert 0 < report["while saving"] < KILLS
    assert report["most steps lost"] <= report["interval"]
