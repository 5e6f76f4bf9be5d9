"""Mistakes with which training still looks right: wrong weights of shares, no flips, the wrong best, no warm-up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_networks import snapshot
from support.training_runs import config, rows, train, trainer
from torch import Tensor

from dfosd_core.lora.file import load_lora
from train_tools.data.crops import CropDataset
from train_tools.data.photos import Pixels
from train_tools.loop.learner import Learner
from train_tools.scoring.pictures import read_image
from train_tools.scoring.validation import Validator


def gradients(material: Path, out: Path, micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What both optimisers get in one step of a batch of four."""
    found: list[Tensor] = []
    honest = Learner.step

    def noting(self: Learner, step: int) -> Tensor:
        found.extend(parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None)
        return honest(self, step)

    run = trainer(config(material, out, data={"micro_batch": micro_batch}))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", noting)
        run.recipe.train_step(0, next(run.batches()))
    return found


def test_each_sample_has_the_same_weight_in_shares_of_three_and_one(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are compared, not steps: AdamW hides a wrong factor."""
    whole, shares = (gradients(material, tmp_path / str(n), n, monkeypatch) for n in (4, 3))
    assert len(whole) == len(shares) > 10
    for expected, actual in zip(whole, shares, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()) + 1e-9)


class Ramp:
    """Crops that get brighter to the right."""

    def cut(self, rng: np.random.Generator) -> Pixels:
        line = np.linspace(20 + rng.integers(10), 220, 32).astype(np.uint8)
        return np.broadcast_to(line[None, :, None], (32, 32, 3))

    def photographs(self) -> dict[str, Path]:
        return {}

    def leave_out(self, names: Collection[str]) -> None:
        pass

    def take_unreadable(self) -> dict[str, str]:
        return {}

    def refuse_unreadable(self, found: Mapping[str, str]) -> None:
        pass


def test_half_of_the_samples_are_flipped_and_their_input_with_them() -> None:
    dataset = CropDataset(Ramp(), ["camera"], seed=0)
    slopes = np.array([[float(x[..., 16:].mean() - x[..., :16].mean()) for x in dataset[k]] for k in range(100)])
    assert 30 <= (slopes[:, 1] < 0).sum() <= 70
    assert ((slopes[:, 0] < 0) == (slopes[:, 1] < 0)).all()


def test_a_run_shows_its_first_samples_at_its_start(material: Path, tmp_path: Path) -> None:
    """Forty pairs: the photograph's crop, and beside it what the generator gets, of the same place."""
    run = trainer(config(material, tmp_path / "out", optim={"steps": 1}, data={"crop": 32}))
    run.fit()
    sheet = read_image(tmp_path / "out" / "degraded.png")[0]
    assert sheet.shape == (3, 18 + 10 * 260, 8 * 260 - 4)
    for k in (0, 5, 39):
        row, column = divmod(2 * k, 8)
        cells = [sheet[:, 18 + row * 260 :, (column + i) * 260 :][:, :32, :32] for i in (0, 1)]
        for cell, x in zip(cells, reversed(run.crops[k]), strict=True):
            torch.testing.assert_close(cell, (x + 1) / 2, rtol=0, atol=0.6 / 255)
    written = (tmp_path / "out" / "degraded.png").stat().st_mtime_ns
    train(config(material, tmp_path / "out", optim={"steps": 2}, data={"crop": 32}))
    assert (tmp_path / "out" / "degraded.png").stat().st_mtime_ns == written, "not again when a run goes on"


SCORES = {0: (18.0, 0.40), 2: (20.0, 0.30), 4: (21.0, 0.20), 6: (22.0, 0.25), 8: (19.0, 0.28)}
"""PSNR-Y and DISTS at each validation: the best are step 6 and step 4."""


@pytest.mark.parametrize(("metric", "best"), [("PSNR-Y", 6), ("DISTS", 4)])
def test_best_is_the_highest_psnr_and_the_lowest_dists(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, best: int
) -> None:
    def scored(_self: Validator, _lora: object, step: int) -> dict[str, float]:
        return {"PSNR-Y": SCORES[step][0], "DISTS": SCORES[step][1]}

    monkeypatch.setattr(Validator, "run", scored)
    settings = config(
        material, tmp_path / "out", validation={"pairs": material / "pairs", "every": 2}, discriminator={"kind": "none"}
    )
    settings.validation.best_by = metric  # pyright: ignore[reportAttributeAccessIssue]  # past the check for VGG16
    run = trainer(settings)
    settings.loss.vgg = tmp_path  # read at the run's start only; without one DISTS gives way to PSNR-Y
    run.fit()
    assert load_lora(tmp_path / "out" / "best.safetensors").metadata.train_config["trained_steps"] == best


def test_warm_up_reaches_each_optimiser_from_its_own_first_step(material: Path, tmp_path: Path) -> None:
    settings = config(
        material,
        tmp_path / "out",
        optim={"warmup_steps": 4, "lr": 1e-3},
        discriminator={"from_step": 3, "warmup_steps": 1, "lr": 1e-4},
    )
    trainer(settings).fit()
    logged = rows(tmp_path / "out")
    assert [row["lr/generator"] for row in logged] == pytest.approx([2.5e-4, 5e-4, 7.5e-4] + [1e-3] * 5)
    assert [row["lr/discriminator"] for row in logged][2:] == pytest.approx([2.5e-5, 5e-5, 7.5e-5] + [1e-4] * 3)


def test_warm_up_makes_the_first_step_smaller(material: Path, tmp_path: Path) -> None:
    moved: list[float] = []
    for steps in (0, 4):
        optim = {"warmup_steps": steps, "weight_decay": 0.0}
        run = trainer(config(material, tmp_path / str(steps), optim=optim, discriminator={"kind": "none"}))
        before = snapshot(run.networks.generator, trainable=True)
        run.recipe.train_step(0, next(run.batches()))
        now = dict(run.networks.generator.named_parameters())
        moved.append(max(float((now[name].detach() - value).abs().max()) for name, value in before.items()))
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-2)
