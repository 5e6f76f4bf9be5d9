"""A run that was stopped and one that was not end in the same bits; checkpoints that are none are refused."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training_runs import accelerator, config, differences, rows, saved, train

from dfosd_core.errors import ConfigError
from train_tools.loop import checkpoint, logbook, trainer
from train_tools.loop.checkpoint import read_checkpoint, remove_leftovers, write_checkpoint
from train_tools.train import run

EVERYTHING: dict[str, dict[str, Any]] = {
    "data": {"micro_batch": 2},
    "optim": {"steps": 12, "schedule": "cosine", "warmup_steps": 3, "ema": 0.9},
    "discriminator": {"from_step": 5, "warmup_steps": 2},
    "run": {"log_every": 4, "checkpoint_every": 100, "precision": "bf16"},
}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal while the step number `steps` from now is at work."""

    def timed(items: Iterable[Any]) -> Iterator[Any]:
        for count, item in enumerate(logbook.timed(items), 1):
            if count == steps:
                signal.raise_signal(number)
            yield item

    monkeypatch.setattr(trainer, "timed", timed)


@pytest.fixture(scope="module")
def straight(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 12 steps without a stop."""
    settings = config(material, tmp_path_factory.mktemp("straight") / "out", **EVERYTHING)
    train(settings)
    return settings.run.out


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_12_steps_equal_6_and_6_more(
    material: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = saved(straight)
    stopped = config(material, tmp_path / "out", **EVERYTHING)
    stopped.data.workers = workers
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        assert run(stopped, accelerator()) == 130
    halfway = saved(stopped.run.out)
    assert halfway["step"] == 6
    assert len(halfway["meter"]["loss/mse"]) == 2, "the log line of step 8 is half collected"
    actual = train(stopped)
    expected["config"]["data"]["workers"] = workers
    assert differences(expected, actual) == []
    assert actual["step"] == 12
    assert {"generator", "discriminator"} == set(actual["networks"]) == set(actual["optimizers"])
    assert len(actual["ema"]["averages"]) == len(actual["networks"]["generator"])
    assert rows(straight) == rows(stopped.run.out)
    assert [row["step"] for row in rows(stopped.run.out)] == [4, 8, 12]
    if workers == 0:
        assert (straight / "last.safetensors").read_bytes() == (stopped.run.out / "last.safetensors").read_bytes()


def test_differences_finds_a_bit() -> None:
    one = {"networks": {"generator": {"up": torch.zeros(2)}}, "best": (1, 2.0)}
    other = {"networks": {"generator": {"up": torch.tensor([0.0, 1e-45])}}, "best": (1, 2.5)}
    assert differences(one, other) == ["/networks/generator/up", "/best/1"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_finishes_the_step_and_saves(
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    before = signal.getsignal(number)
    stop_after(monkeypatch, 3, number)
    assert run(config(material, tmp_path / "out"), accelerator()) == code
    assert saved(tmp_path / "out")["step"] == 3
    assert "Stopped after step 3 of 8; saved. The same command goes on from there." in capsys.readouterr().out
    assert signal.getsignal(number) == before


def test_finished_run_says_so_and_goes_on_when_steps_are_raised(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = config(material, out, optim={"steps": 2}, discriminator={"kind": "none"})
    train(settings)
    (out / "last.safetensors").unlink()
    capsys.readouterr()
    train(settings)
    assert f"'{out}' holds a finished run of 2 steps. Raise optim.steps to train on." in capsys.readouterr().out
    assert (out / "last.safetensors").exists(), "a kill between checkpoint and export is made good"
    settings.optim.steps = 3
    assert train(settings)["step"] == 3
    assert "Going on from step 2 of 3" in capsys.readouterr().out


def test_resume_restores_the_global_generators(tmp_path: Path) -> None:
    states = checkpoint.random_states()
    write_checkpoint(tmp_path, {"random": states})
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    checkpoint.restore_random_states(saved(tmp_path)["random"])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_resumed_optimizer_takes_its_settings_from_the_configuration() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    old, new = (torch.optim.AdamW([parameter], lr=1, weight_decay=decay) for decay in (0.1, 0.2))
    parameter.grad = torch.ones(1)
    old.step()
    checkpoint.load_optimizer(new, old.state_dict())
    assert new.param_groups[0]["weight_decay"] == 0.2
    assert new.state[parameter]["step"] == 1


def test_checkpoint_of_another_shape_is_refused(material: Path, tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    state = checkpoint.trainable_state(network)
    message = (
        "The checkpoint's generator does not fit the configuration's: 1 of 2 parameters are missing, unknown or of "
        "another shape, first {}. "
    )
    for broken, first in (
        ({"weight": state["weight"]}, "bias"),
        ({**state, "more": state["bias"]}, "more"),
        ({**state, "weight": torch.zeros(3, 1)}, "weight"),
    ):
        with pytest.raises(ConfigError) as caught:
            checkpoint.load_trainable(network, broken, "generator")
        assert str(caught.value).startswith(message.format(first))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-900]), "damaged or no checkpoint (File is not a zip file)"),
        (lambda path: path.write_bytes(b""), "damaged or no checkpoint (File is not a zip file)"),
        (lambda path: path.write_text("hello"), "damaged or no checkpoint"),
        (lambda path: _flip(path), "damaged or no checkpoint ("),
        (lambda path: torch.save(torch.zeros(3), path), "is not a checkpoint of this version of DFOSD"),
        (lambda path: torch.save({"format": "another"}, path), "is not a checkpoint of this version of DFOSD"),
        (lambda path: torch.save({"run": _Stranger()}, path), "holds more than tensors and numbers"),
    ],
    ids=["truncated", "empty", "text", "flipped", "tensor", "other", "code"],
)
def test_broken_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: Any, reason: str) -> None:
    path = write_checkpoint(tmp_path, {"tensor": torch.arange(1000.0)})
    damage(path)
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(tmp_path)
    text = str(caught.value)
    assert reason in text
    assert str(path) in text
    assert text.endswith("Put a copy back, or delete it to start afresh.")
    assert "\n" not in text


class _Stranger:
    pass


def _flip(path: Path) -> None:
    """Change one bit of the tensor's values, which torch's reader does not notice."""
    content = bytearray(path.read_bytes())
    place = bytes(content).index(torch.arange(1000.0).numpy().tobytes()) + 1234
    content[place] ^= 1
    path.write_bytes(content)


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, {"step": 1})

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(tmp_path, {"step": 2})
    assert saved(tmp_path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    (tmp_path / ".checkpoint.pt.4711.part").write_bytes(b"what a kill leaves")
    assert remove_leftovers(tmp_path) == [".checkpoint.pt.4711.part"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
