"""Two processes with half the batch each, and micro-batches, compute what one process does at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training_runs import accelerator, config, losses, saved, train

from dfosd_core.errors import ConfigError
from train_tools.loop.trainer import Trainer
from train_tools.settings.config import TrainConfig
from train_tools.settings.config_file import dump_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one process that takes the batch at once."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(short(material, out))
    return out


def short(material: Path, out: Path, **data: int) -> TrainConfig:
    return config(material, out, data=data, optim={"steps": 5})


def in_two_processes(settings: TrainConfig, folder: Path) -> None:
    file = folder / "config.yaml"
    file.write_text(dump_config(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "train_tools.train", "--config", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_same_losses(first: Path, second: Path) -> None:
    expected, actual = losses(first), losses(second)
    assert expected.keys() == actual.keys() >= {"loss/generator", "loss/adversarial", "loss/discriminator"}
    for name, values in expected.items():
        assert len(values) == 5
        assert actual[name] == pytest.approx(values, abs=1e-5), name


def test_micro_batches_equal_the_batch(material: Path, whole: Path, tmp_path: Path) -> None:
    train(short(material, tmp_path / "out", micro_batch=1))
    assert_same_losses(whole, tmp_path / "out")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_equal_one(material: Path, whole: Path, tmp_path: Path) -> None:
    in_two_processes(short(material, tmp_path / "out", micro_batch=1), tmp_path)
    assert_same_losses(whole, tmp_path / "out")
    assert saved(tmp_path / "out")["step"] == 5


def test_other_samples_give_other_losses(material: Path, whole: Path, tmp_path: Path) -> None:
    settings = short(material, tmp_path / "out")
    settings.run.seed = 1
    train(settings)
    assert losses(whole)["loss/mse"] != pytest.approx(losses(tmp_path / "out")["loss/mse"], abs=1e-5)


def test_batch_that_processes_cannot_share_is_refused(material: Path, tmp_path: Path) -> None:
    class Three:
        """What the check asks of an accelerator, with as many processes as this test cannot start."""

        num_processes, is_main_process, device = 3, True, torch.device("cpu")

    with pytest.raises(ConfigError, match=r"batch_size: expected a multiple of the number of processes \(3\), found 4"):
        Trainer(short(material, tmp_path / "out"), Three())  # type: ignore[arg-type]
    assert accelerator().num_processes == 1
