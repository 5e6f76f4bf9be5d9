"""The ablation: equal steps and crops for every row, restartable, and figures that can be recomputed."""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_validation import random_vgg

from dfosd_core.errors import ConfigError
from dfosd_core.lora.file import load_lora
from train_tools.ablation import ablate, check_out, named_pairs
from train_tools.ablations import runs as ablation_runs
from train_tools.ablations.report import plot, spread, table, values_of
from train_tools.ablations.runs import LABELS, ROWS, AblationRun, list_runs, train_all
from train_tools.ablations.scores import heldout_discriminator_loss
from train_tools.loop.plots import CHANCE, to_image
from train_tools.scoring.pictures import read_image
from train_tools.settings.config import LossConfig, OptimConfig, TrainConfig

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(loss=LossConfig(perceptual="none"), optim=OptimConfig(steps=40))


def test_every_row_starts_from_its_seeds_start_and_takes_the_same_steps(tmp_path: Path) -> None:
    runs = list_runs(CONFIG, tmp_path, list(ROWS), [0, 1], start_steps=10, start_settings=["optim.lr=0.5"])
    starts, rows = [("start", 0), ("start", 1)], [(row, seed) for seed in (0, 1) for row in ROWS]
    assert [(run.row, run.seed) for run in runs] == starts + rows
    for run in runs:
        facts = dict(setting.split("=") for setting in run.settings)
        assert facts["run.out"] == str(run.out)
        if run.row == "start":
            assert (run.steps, facts["optim.steps"], facts["loss.perceptual"]) == (10, "10", "none")
            assert facts["optim.lr"] == "0.5"
        else:
            assert (run.steps, facts["run.seed"]) == (40, str(run.seed))
            assert facts["model.init_lora"] == f"{tmp_path}/seed{run.seed}/start/last.safetensors"
            assert "optim.steps" not in facts
            assert "optim.lr" not in facts
    assert len({run.settings[:2] for run in runs if run.row != "start"}) == len(ROWS)
    assert set(LABELS) == {"start", *ROWS}


def no_runs(monkeypatch: pytest.MonkeyPatch, fail: str = "") -> list[tuple[str, str]]:
    """Record when each run begins and ends instead of training."""
    seen: list[tuple[str, str]] = []

    def train(run: AblationRun, *_: object) -> None:
        seen.append(("begin", run.out.name))
        time.sleep(0.05)
        if run.out.name == fail:
            raise ConfigError(f"{fail} failed")
        seen.append(("end", run.out.name))

    monkeypatch.setattr(ablation_runs, "train_run", train)
    return seen


def runs_of(place: Path, *rows: str) -> list[AblationRun]:
    return [AblationRun(row, 0, place / row, 2, ()) for row in rows]


def test_no_row_begins_before_its_start_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = no_runs(monkeypatch)
    train_all(runs_of(tmp_path, "start", "mse", "nad"), tmp_path, (), jobs=2)
    assert seen[:2] == [("begin", "start"), ("end", "start")]
    assert {name for what, name in seen if what == "end"} == {"start", "mse", "nad"}


def test_after_a_failure_nothing_more_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = no_runs(monkeypatch, fail="mse")
    with pytest.raises(ConfigError, match="mse failed"):
        train_all(runs_of(tmp_path, "start", "mse", "nad"), tmp_path, (), jobs=1)
    assert ("begin", "nad") not in seen


def test_folder_of_another_ablation_is_refused(tmp_path: Path) -> None:
    check_out(tmp_path / "out", CONFIG, 10)
    check_out(tmp_path / "out", CONFIG, 10)
    with pytest.raises(ConfigError, match="was begun with another configuration or another start"):
        check_out(tmp_path / "out", CONFIG, 20)
    with pytest.raises(ConfigError, match="was begun with another configuration or another start"):
        check_out(tmp_path / "out", CONFIG, 10, ["optim.lr=0.5"])


def test_pairs_are_given_by_name(tmp_path: Path) -> None:
    assert named_pairs([f"held={tmp_path}"]) == {"held": tmp_path}
    for wrong in (str(tmp_path), "held=", f"={tmp_path}", "held=/nowhere"):
        with pytest.raises(ConfigError, match=r"--pairs: expected NAME=FOLDER with a folder that exists, found"):
            named_pairs([wrong])


def results() -> dict[str, Any]:
    scores = {
        ("mse", 0): (30.0, 0.20),
        ("mse", 1): (30.2, 0.22),
        ("dists", 0): (29.5, 0.15),
        ("dists", 1): (29.9, 0.16),
        ("nad", 0): (29.0, 0.14),
    }
    runs: list[dict[str, Any]] = [
        {"row": row, "seed": seed, "scores": {"held": {"PSNR-Y": p, "SSIM-Y": 0.8, "DISTS": d}}}
        for (row, seed), (p, d) in scores.items()
    ]
    runs[-1]["scores"]["held"]["L_D"] = 1.2
    return {"bicubic": {"held": {"PSNR-Y": 28.0, "SSIM-Y": 0.7, "DISTS": 0.3}}, "runs": runs}


def test_table_has_means_sample_deviations_and_paired_differences() -> None:
    lines = table(results(), "held").splitlines()
    assert lines[0].startswith(
        "| loss | PSNR-Y | SSIM-Y | DISTS | PSNR-Y, to the row above | DISTS, to the row above |"
    )
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines[2:]}
    assert cells["bicubic"][1:4] == ["28.00", "0.7000", "0.3000"]
    # 30.1 with deviation 0.2 / sqrt(2)
    assert cells["MSE"][1:4] == ["30.10 ± 0.14", "0.8000 ± 0.0000", "0.2100 ± 0.0141"]
    # -0.5 and -0.3; -0.05 and -0.06
    assert cells["MSE + DISTS"][4:6] == ["-0.40 ± 0.14", "-0.0550 ± 0.0071"]
    assert cells["MSE + EA-DISTS + NAD"][4:7] == ["-0.50", "-0.0100", "1.200"]
    assert spread([], "DISTS") == ""


def test_plot_shows_every_seed_and_the_discriminator(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plot(results(), {"nad": [([10, 20], [1.4, 1.2])]})
    points, losses = figure.axes
    drawn = np.concatenate([np.asarray(part.get_offsets()) for part in points.collections])
    for row in ("mse", "dists", "nad"):
        for seed, psnr in values_of(results(), row, "held", "PSNR-Y").items():
            distance = values_of(results(), row, "held", "DISTS")[seed]
            assert np.isclose(drawn, (distance, psnr)).all(axis=1).any()
    assert any(np.allclose(np.asarray(line.get_ydata(), dtype=float), CHANCE) for line in losses.lines)
    assert to_image(figure).width > 1000


def small_setting(place: Path) -> argparse.Namespace:
    """Two steps on crops of 64, pairs of 16 to 64, a VGG of noise."""
    save_file({name: value.half() for name, value in random_vgg().items()}, place / "vgg.safetensors")
    settings = {
        "model": {"rank": 4, "lora_alpha": 4},
        "data": {"photos": str(ROOT / "examples" / "photos" / "train"), "crop": 64, "batch_size": 2}
        | {"micro_batch": 2, "workers": 0, "presets": ["camera"]},
        "loss": {"vgg": str(place / "vgg.safetensors"), "lambda_1": 0.01},
        "discriminator": {"lr": 1e-3, "rank": 4, "lora_alpha": 4},
        "optim": {"steps": 2, "lr": 1e-3},
        "run": {"precision": "no", "log_every": 1},
    }
    (place / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    for side, edge in (("LR", 16), ("HR", 64)):
        (place / "pairs" / side).mkdir(parents=True)
        with Image.open(ROOT / "examples" / "photos" / "pairs" / "HR" / "coffee.png") as image:
            image.crop((64, 64, 128, 128)).resize((edge, edge)).save(place / "pairs" / side / "coffee.png")
    return argparse.Namespace(
        config=place / "config.yaml",
        out=place / "out",
        start_steps=1,
        pairs=[f"held={place / 'pairs'}"],
        seeds=[0],
        rows=["mse", "nad"],
        set=[],
        start_set=[],
        jobs=1,
        report=False,
    )


@pytest.mark.slow
def test_whole_ablation_on_a_small_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = small_setting(tmp_path)
    ablate(args)
    printed = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "| start (MSE)",
        "| MSE",
        "| MSE + EA-DISTS + NAD",
    ]
    assert {path.name for path in args.out.iterdir()} == {
        "ablation.json",
        "crops.png",
        "plot.png",
        "results.json",
        "seed0",
        "table.md",
    }
    folder = args.out / "seed0"
    start, mse, nad = (load_lora(folder / row / "last.safetensors") for row in ("start", "mse", "nad"))
    changed = [not torch.equal(mse.pairs[name].up, nad.pairs[name].up) for name in mse.pairs]
    assert any(changed)  # the terms reach the LoRA
    assert start.metadata.train_config["trained_steps"] == 1
    assert nad.metadata.train_config["discriminator"]["kind"] == "nad"
    assert read_image(args.out / "crops.png").shape[3] == 5 * 196 - 4  # LR, bicubic, two rows, HR

    loss = heldout_discriminator_loss(folder / "nad", tmp_path / "pairs", draws=2)
    assert loss is not None
    assert loss == heldout_discriminator_loss(folder / "nad", tmp_path / "pairs", draws=2)
    assert 0.5 * CHANCE < loss < 2 * CHANCE  # two steps: about chance
    assert heldout_discriminator_loss(folder / "mse", tmp_path / "pairs") is None
    found = re.search(r"NAD .* (\d\.\d{3}) \|", printed)
    assert found is not None

    # Again: all is done, so nothing is trained. A run with more steps to go would be.
    assert AblationRun("nad", 0, folder / "nad", 2, ()).is_done()
    assert not AblationRun("nad", 0, folder / "nad", 3, ()).is_done()
    monkeypatch.setattr(ablation_runs, "train_run", lambda *_: pytest.fail("trained what was done"))
    before = (args.out / "results.json").read_text()
    ablate(args)
    assert (args.out / "results.json").read_text() == before
