"""Every program of train_tools starts as a user types it: by its file, as a module, and by accelerate."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training_runs import config, saved

from train_tools.settings.config_file import dump_config

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path.stem for path in (ROOT / "train_tools").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
)
LAUNCHER = "from accelerate.commands.accelerate_cli import main; main()"


def start(folder: Path, *command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, where nothing of ours lies, with nothing of ours on its path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_WAIT_POLICY")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_list_of_programs_is_whole() -> None:
    assert {"train", "evaluate", "make_pairs", "prepare_data", "ablation", "convert", "train_base"} <= set(PROGRAMS)


def policies_in_use(report: str) -> set[str]:
    """What OpenMP says under OMP_DISPLAY_ENV that it has read, once, as it was loaded with torch."""
    return set(re.findall(r"OMP_WAIT_POLICY\s*=\s*'?(\w+)", report))


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_starts_by_its_file_from_another_folder_and_its_threads_sleep(tmp_path: Path, program: str) -> None:
    done = start(tmp_path, ROOT / "train_tools" / f"{program}.py", "--help", OMP_DISPLAY_ENV="true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert policies_in_use(done.stderr) <= {"PASSIVE"}, "some --help loads no torch, and so no OpenMP"


def test_users_own_wait_policy_is_kept(tmp_path: Path) -> None:
    program = ROOT / "train_tools" / "train.py"
    done = start(tmp_path, program, "--help", OMP_DISPLAY_ENV="true", OMP_WAIT_POLICY="ACTIVE")
    if not (used := policies_in_use(done.stderr)):
        pytest.skip(f"this build of torch ({torch.__version__}) has an OpenMP that does not show its settings")
    assert used == {"ACTIVE"}


def test_errors_keep_their_line_and_their_code(tmp_path: Path) -> None:
    done = start(tmp_path, ROOT / "train_tools" / "make_pairs.py", "nowhere", "pairs")
    assert done.returncode == 1
    assert re.fullmatch(r"make_pairs: No photographs in 'nowhere'.*\n", done.stderr)


@pytest.mark.parametrize("form", ["file", "module", "accelerate"])
def test_training_starts_in_each_form(material: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "config.yaml"
    settings = config(material, tmp_path / "out", optim={"steps": 2}, discriminator={"kind": "none"})
    settings.data.workers = 1
    file.write_text(dump_config(settings))
    program = ROOT / "train_tools" / "train.py"
    begin = {
        "file": (program,),
        "module": ("-m", "train_tools.train"),
        "accelerate": ("-c", LAUNCHER, "launch", "--cpu", "--num_processes", 1, "--num_machines", 1, program),
    }[form]
    variables = {"PYTHONPATH": str(ROOT)} if form == "module" else {}
    done = start(tmp_path, *begin, "--config", file, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert saved(tmp_path / "out")["step"] == 2
