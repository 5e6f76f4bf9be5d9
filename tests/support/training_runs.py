"""For the tests of the training loop: a small base on disk, photographs, configurations, and runs to compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from support.small_networks import RANK, small_unet, small_vae

from train_tools.loop.checkpoint import read_checkpoint
from train_tools.loop.logbook import Logbook
from train_tools.loop.trainer import Trainer
from train_tools.settings.config import (
    DataConfig,
    DiscriminatorConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    ValidationConfig,
)
from train_tools.train import make_accelerator, run

OPEN_LOGBOOKS: list[Logbook] = []
"""Of trainers that no test may ever run. tests/train/conftest.py closes them: they write from a thread of their own."""


def write_material(folder: Path) -> Path:
    """`folder` with base/ (small networks as a diffusers folder), photos/ and pairs/ (two of 32 px)."""
    small_unet().save_pretrained(folder / "base" / "unet")
    small_vae().save_pretrained(folder / "base" / "vae")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(5)
    for index in range(2):
        small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        small.resize((320, 320), Image.Resampling.BICUBIC).save(folder / "photos" / f"{index}.png")
    for side, edge in (("LR", 8), ("HR", 32)):
        (folder / "pairs" / side).mkdir(parents=True)
        for index in range(2):
            photo = Image.open(folder / "photos" / f"{index}.png").crop((0, 0, 32, 32))
            photo.resize((edge, edge), Image.Resampling.BOX).save(folder / "pairs" / side / f"{index}.png")
    return folder


def config(material: Path, out: Path, **changes: dict[str, Any]) -> TrainConfig:
    """A run of 8 steps in float32; `changes` are sections: optim={"steps": 4}."""
    whole = TrainConfig(
        model=ModelConfig(base=str(material / "base"), rank=RANK, lora_alpha=RANK, prompt_tokens=5),
        data=DataConfig(photos=material / "photos", crop=16, batch_size=4, micro_batch=4, workers=0),
        loss=LossConfig(perceptual="none", lambda_1=0.05),
        discriminator=DiscriminatorConfig(kind="nad", rank=RANK, lora_alpha=RANK, lr=1e-3),
        optim=OptimConfig(steps=8, lr=1e-3, ema=0.0),
        validation=ValidationConfig(best_by="PSNR-Y", every=4),
        run=RunConfig(out=out, device="cpu", precision="no", log_every=1, checkpoint_every=4),
    )
    return replace(
        whole, **{section: replace(getattr(whole, section), **values) for section, values in changes.items()}
    )


def accelerator() -> Accelerator:
    torch.set_num_threads(1)
    return make_accelerator(RunConfig(device="cpu"))


def train(settings: TrainConfig) -> dict[str, Any]:
    """Run to the end, going on from a checkpoint where there is one; return the last checkpoint."""
    assert run(settings, accelerator()) == 0
    return saved(settings.run.out)


def trainer(settings: TrainConfig) -> Trainer:
    settings.run.out.mkdir(parents=True, exist_ok=True)
    made = Trainer(settings, accelerator())
    if made.logbook:
        OPEN_LOGBOOKS.append(made.logbook)
    return made


def saved(out: Path) -> dict[str, Any]:
    state = read_checkpoint(out)
    assert state is not None
    return state


def rows(out: Path) -> list[dict[str, float]]:
    """metrics.jsonl without the clock's values."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def losses(out: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows(out):
        for name, value in row.items():
            if name.startswith("loss/"):
                found.setdefault(name, []).append(value)
    return found


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """The places at which two checkpoints differ by a single bit; clock, folder and global generators left out."""
    if where in ("/random", "/config/run/out") or "/time/" in where:
        return []
    if isinstance(first, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{where}: {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [place for key in first for place in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [where]
        return [
            p for i, (a, b) in enumerate(zip(first, second, strict=True)) for p in differences(a, b, f"{where}/{i}")
        ]
    return [] if first == second else [where]
