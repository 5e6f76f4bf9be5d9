"""What stops a run costs it nothing: signals to the whole group, a full disk, a damaged photograph, a NaN."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.training_runs import accelerator, config, differences, saved, train, trainer

from dfosd_core.errors import ConfigError
from dfosd_core.files import folder_locked
from train_tools.data.crops import CropDataset, MicroBatchSampler, batches
from train_tools.data.photos import PhotoFolder
from train_tools.loop import checkpoint, stopping
from train_tools.loop.stopping import NotSavedError, noted_signals
from train_tools.settings.config import DataConfig
from train_tools.settings.config_file import dump_config
from train_tools.train import main, run

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_sigterm_to_every_process_saves_and_the_run_ends_in_the_same_bits(material: Path, tmp_path: Path) -> None:
    """The workers get it too, as from systemd or pkill, and the group twice, as under torchrun."""
    settings = config(material, tmp_path / "out", data={"workers": 2}, optim={"steps": 400}, run={"log_every": 500})
    settings.run.checkpoint_every = 500
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(settings))
    command = [sys.executable, str(ROOT / "train_tools" / "train.py"), "--config", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, start_new_session=True, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not any(line.startswith("Step ") for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.05)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, rest
    found = re.search(r"Stopped after step (\d+) of 400; saved\.", rest)
    assert found, rest
    assert "Traceback" not in rest
    assert not any(worker.is_running() for worker in workers)
    stopped_at = saved(tmp_path / "out")["step"]
    assert 0 < stopped_at == int(found[1]) < 400

    settings.optim.steps = settings.run.checkpoint_every = stopped_at + 3
    straight = config(material, tmp_path / "straight", optim={"steps": stopped_at + 3}, run={"log_every": 500})
    straight.data.workers, straight.run.checkpoint_every = 2, stopped_at + 3
    assert differences(train(straight), train(settings)) == []


def test_signals_at_once_are_one_request_and_a_late_one_acts_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with noted_signals() as noted:
        signal.raise_signal(signal.SIGINT)
        now[0] += 1
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert noted == [signal.SIGINT]
        now[0] += 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def full_disk(at_call: int, *, hidden: bool) -> Any:
    """torch.save that finds the disk full at its call number `at_call`; hidden: as torch's own writer reports it."""
    honest, calls = torch.save, [0]

    def save(state: Any, file: Any) -> None:
        calls[0] += 1
        if calls[0] < at_call:
            honest(state, file)
            return
        file.write(b"half of it")
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not hidden:
            raise full
        try:
            raise full
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # noqa: B904

    return save


@pytest.mark.parametrize("hidden", [False, True])
def test_full_disk_leaves_the_last_checkpoint_and_one_line(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    out = tmp_path / "out"
    settings = config(material, out, run={"checkpoint_every": 2})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk(2, hidden=hidden))
        with pytest.raises(NotSavedError) as caught:
            run(settings, accelerator())
    assert str(caught.value) == (
        f"Step 4: '{out}' cannot be written: the disk is full. The last good checkpoint is '{out / 'checkpoint.pt'}' "
        "of step 2. Make room there and give the same command again."
    )
    assert not list(out.glob(".*.part"))
    assert saved(out)["step"] == 2
    straight = config(material, tmp_path / "straight", run={"checkpoint_every": 2})
    assert differences(train(straight), train(settings)) == []


def test_full_disk_at_the_start_is_one_line(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "config.yaml")

    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, tmp_path / "out")))
    monkeypatch.setattr("train_tools.train.write_text", full)
    assert main(["--config", str(file)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == "train: 'config.yaml': the disk is full."


def test_last_checkpoints_are_kept_under_their_steps(material: Path, tmp_path: Path) -> None:
    settings = config(material, tmp_path / "out", run={"checkpoint_every": 2})
    train(settings)
    names = [path.name for path in checkpoint.earlier_checkpoints(tmp_path / "out")]
    assert names == ["checkpoint_00000004.pt", "checkpoint_00000006.pt", "checkpoint_00000008.pt"]
    (tmp_path / "out" / "checkpoint.pt").unlink()
    (tmp_path / "out" / names[0]).rename(tmp_path / "out" / "checkpoint.pt")
    assert saved(tmp_path / "out")["step"] == 4
    settings.run.keep_checkpoints, settings.optim.steps = 1, 9
    assert train(settings)["step"] == 9
    assert not checkpoint.earlier_checkpoints(tmp_path / "out")


def test_damaged_checkpoint_names_the_one_before(material: Path, tmp_path: Path) -> None:
    train(config(material, tmp_path / "out", optim={"steps": 4}, run={"checkpoint_every": 2}))
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"Copy 'checkpoint_00000002\.pt' over it"):
        checkpoint.read_checkpoint(tmp_path / "out")


def test_nan_gradient_leaves_weights_of_before_and_they_are_saved(material: Path, tmp_path: Path) -> None:
    run = trainer(config(material, tmp_path / "out"))
    learner = run.recipe.generator
    before = [parameter.detach().clone() for parameter in learner.parameters]
    for parameter in learner.parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    assert not learner.step(0).isfinite()
    assert run.recipe.is_finite()
    moved = [(a - b).abs().max().item() for a, b in zip(before, learner.parameters, strict=True)]
    assert max(moved) < 1e-4, "no more than weight decay"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photographs, of which c.png has lost its second half."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    torn = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(torn[: len(torn) // 2])
    return folder


def test_photograph_that_vanishes_is_named_and_passed_over(photos: Path) -> None:
    (photos / "c.png").write_bytes((photos / "a.png").read_bytes())
    dataset = CropDataset.open(DataConfig(photos=photos, crop=32, presets=["camera"]), 0)
    (photos / "b.png").unlink()
    said: list[str] = []
    steps = list(batches(dataset, MicroBatchSampler(steps=6, batch_size=4, micro_batch=2), 0, said.append))
    assert len(steps) == 6
    assert len(said) == 1
    assert "b.png" in said[0]


@pytest.mark.skipif(os.name != "posix", reason="there are no such locks")
def test_second_run_into_the_same_folder_is_refused_and_harms_nothing(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train(config(material, out, optim={"steps": 2}))
    (out / ".checkpoint.pt.1.part").write_bytes(b"half, of the one that is at it")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, out, optim={"steps": 4})))
    with folder_locked(out, ConfigError("")):
        assert main(["--config", str(file)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"train: Another run is training into '{out}'. Wait for its end, or set another run.out."
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with folder_locked(out, ConfigError("")):
        pass  # the lock is gone with its run


def test_folder_that_cannot_be_made_is_one_line(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, tmp_path / "file" / "out")))
    assert main(["--config", str(file)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("train: '")


@pytest.mark.parametrize("workers", [0, 2])
def test_one_torn_photograph_is_named_once_and_passed_over(photos: Path, workers: int) -> None:
    sampler = MicroBatchSampler(steps=6, batch_size=4, micro_batch=2)
    said: list[str] = []
    dataset = CropDataset.open(DataConfig(photos=photos, crop=32, presets=["camera"]), 0)
    steps = list(batches(dataset, sampler, workers, said.append))
    assert len(steps) == 6
    assert len(said) == 1
    assert said[0].startswith("Skipped: ")
    assert "c.png" in said[0]
    (photos / "c.png").write_bytes(b"")  # now its header, too: the other samples stay as they are
    said.clear()
    again = CropDataset.open(DataConfig(photos=photos, crop=32, presets=["camera"]), 0)
    next(iter(batches(again, sampler, 0, said.append)))
    assert len(said) == 1


def test_too_many_torn_photographs_end_the_run(photos: Path) -> None:
    (photos / "a.png").write_bytes(b"")
    (photos / "b.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2 of 4 files in '.*photos' cannot be read, 1 may be\. The last one: .*b"):
        PhotoFolder(photos, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_torn_photographs_of_several_workers_are_counted_together(photos: Path, workers: int) -> None:
    torn = (photos / "c.png").read_bytes()
    (photos / "d.png").write_bytes(torn)
    dataset = CropDataset.open(DataConfig(photos=photos, crop=32, presets=["camera"]), 0)
    sampler = MicroBatchSampler(steps=20, batch_size=4, micro_batch=1)
    with pytest.raises(ConfigError, match=r"2 of 4 files in '.*' cannot be read, 1 may be"):
        list(batches(dataset, sampler, workers))
