"""A training of the embedded base for some minutes, as `train_tools/train.py` runs it: seconds a step, and the scores.

`small_cpu.yaml` with a larger batch, worker processes, and as many steps as a short trial says will fit. Both networks
are at work from the start in the trial; in the training the discriminator warms up for a fifth of the steps. With VGG16
the perceptual term is EA-DISTS. The run's curves, its pictures and its LoRA are kept beside the table.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Generator, Iterator
from contextlib import redirect_stdout
from typing import Any

import torch

from dfosd_core.errors import DfosdError
from train_tools.loop.logbook import read_log
from train_tools.loop.trainer import LAST_LORA
from train_tools.settings.config_file import load_config
from train_tools.train import make_accelerator, run

from ..train_speed import CONFIG, PHOTOS, ROOT
from .setting import Row, Setting

COLUMNS = ("what", "value")
TRIAL_STEPS, LEAST_STEPS = 40, 50
KEPT = ("loss.png", "validation.png", LAST_LORA)
MIB = 2**20


def rows(setting: Setting) -> Generator[Row, None, None]:
    """The trial, then the training."""
    trial, least = (2, 4) if setting.tiny else (TRIAL_STEPS, LEAST_STEPS)
    found = _train(setting, "trial", trial, 0, ["validation.count=0", "run.log_every=1"])
    seconds = _median(found, "time/step_s", skip=trial // 2)
    yield Row(("trial", f"{trial} steps, {seconds:.3f} s a step"))
    steps = max(least, int(60 * setting.minutes / seconds))
    setting.empty()
    found = _train(setting, "training", steps, steps // 5, [f"run.log_every={max(1, steps // 100)}"])
    batch = _batch(setting)
    whole, waited = (_median(found, name, skip=1) for name in ("time/step_s", "time/data_s"))
    yield Row(("steps, crops a step", f"{steps}, {batch}"))
    yield Row(("seconds a step", f"{whole:.3f}, of which {waited:.3f} waiting for data"))
    yield Row(("crops a second", f"{batch / whole:.0f}"))
    if setting.device.type == "cuda":
        yield Row(("largest memory, MiB", f"{torch.cuda.max_memory_allocated(setting.device) / MIB:.0f}"))
    yield from _scores(found)
    for name in KEPT:
        shutil.copy(setting.work / "training" / name, setting.out / f"gpu_training_{name}")
    yield Row(("files", ", ".join(f"gpu_training_{name}" for name in KEPT)))


def _batch(setting: Setting) -> int:
    return 1 if setting.tiny else 32


def _train(setting: Setting, name: str, steps: int, warm_up: int, more: list[str]) -> list[dict[str, Any]]:
    """One run of train.py from its beginning; its log."""
    out, batch = setting.work / name, _batch(setting)
    changes = [
        f"run.out={out}",
        f"run.device={setting.device.type}",
        f"run.checkpoint_every={steps}",
        f"data.photos={setting.photos or PHOTOS}",
        f"data.batch_size={batch}",
        f"data.micro_batch={batch}",
        f"data.workers={0 if setting.tiny else min(8, os.cpu_count() or 1)}",
        f"data.crop={32 if setting.tiny else 96}",
        f"optim.steps={steps}",
        f"optim.warmup_steps={warm_up // 4}",
        f"discriminator.warmup_steps={warm_up}",
        f"discriminator.from_step={warm_up}",
        f"validation.pairs={ROOT / 'examples' / 'photos' / 'pairs'}",
        f"validation.every={steps}",
        f"validation.count={1 if setting.tiny else 16}",
        *([f"loss.vgg={setting.vgg}", "loss.perceptual=ea_dists"] if setting.vgg else []),
        *more,
    ]
    config = load_config(CONFIG, changes)
    accelerator = make_accelerator(config.run)
    with (setting.out / "gpu_training.log").open("a", encoding="utf-8") as log, redirect_stdout(log):
        code = run(config, accelerator)
    if code:
        raise DfosdError(f"the training ended with code {code}, expected 0: see gpu_training.log.")
    return read_log(out / "metrics.jsonl")


def _median(log: list[dict[str, Any]], name: str, skip: int) -> float:
    """Of the values after the first `skip`, which wait for workers and for cuDNN's choices."""
    values = [row[name] for row in log if name in row]
    return statistics.median(values[skip:] or values)


def _scores(log: list[dict[str, Any]]) -> Iterator[Row]:
    validated = [row for row in log if any(name.startswith("val/") for name in row)]
    start, end = validated[0], validated[-1]
    for name in (name for name in end if name.startswith("val/")):
        metric = name.removeprefix("val/")
        bicubic = end.get(f"bicubic/{metric}")
        words = f"{start[name]:.4f} at the start, {end[name]:.4f} at the end"
        yield Row((metric, words if bicubic is None else f"{words}, bicubic {bicubic:.4f}"))
    losses = [row["loss/discriminator"] for row in log if "loss/discriminator" in row]
    yield Row(("discriminator's loss (chance 1.386)", f"{losses[0]:.3f} at the start, {losses[-1]:.3f} at the end"))
