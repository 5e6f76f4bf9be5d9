"""The ablation: equal steps, crops and gradient norms for every row, restartable, and a report that can be checked."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training_runs import write_material

from dfosd_core.errors import ConfigError
from dfosd_core.lora.file import load_lora
from train_tools.ablation import ablate, check_out, named_pairs
from train_tools.ablations import runs as ablation_runs
from train_tools.ablations import scores as ablation_scores
from train_tools.ablations.gate import ENDED, JOINED, heldout_discriminator_loss
from train_tools.ablations.plot import plot
from train_tools.ablations.report import all_compared, gate, report, spread
from train_tools.ablations.runs import LABELS, ROWS, AblationRun, list_runs, train_all
from train_tools.loop.checkpoint import checkpoint_name, earlier_checkpoints
from train_tools.loop.plots import CHANCE, to_image
from train_tools.settings.config import DiscriminatorConfig, LossConfig, OptimConfig, TrainConfig
from train_tools.settings.config_file import load_config

CONFIG = TrainConfig(
    loss=LossConfig(perceptual="none", adversarial_share=0.5),
    discriminator=DiscriminatorConfig(kind="none", from_step=7, warmup_steps=7),
    optim=OptimConfig(steps=40),
)
SHIPPED = Path(__file__).parents[2] / "train_tools" / "configs" / "ablation.yaml"


def test_every_row_starts_from_its_seeds_start_and_takes_the_same_steps(tmp_path: Path) -> None:
    runs = list_runs(CONFIG, tmp_path, list(ROWS), [0, 1], start_steps=10, start_settings=["optim.lr=0.5"])
    starts, rows = [("start", 0), ("start", 1)], [(row, seed) for seed in (0, 1) for row in ROWS]
    assert [(run.row, run.seed) for run in runs] == starts + rows
    for run in runs:
        facts = dict(setting.split("=") for setting in run.settings)
        assert facts["run.out"] == str(run.out)
        if run.row == "start":
            assert (run.steps, facts["optim.steps"], facts["loss.perceptual"]) == (10, "10", "none")
            assert (facts["optim.lr"], facts["discriminator.kind"]) == ("0.5", "none")
        else:
            assert (run.steps, facts["run.seed"]) == (40, str(run.seed))
            assert facts["model.init_lora"] == f"{tmp_path}/seed{run.seed}/start/last.safetensors"
            # They differ in the discriminator, and in what is kept of it.
            differs = {"discriminator.kind", "run.checkpoint_every", "run.keep_checkpoints"}
            assert facts.keys() - differs == {"run.seed", "run.out", "model.init_lora"}
            assert facts.get("run.checkpoint_every", "7") == "7"
    assert len({run.settings[0] for run in runs if run.row != "start"}) == len(ROWS)
    assert set(LABELS) == {"start", *ROWS}


def test_rows_that_could_not_be_compared_are_refused(tmp_path: Path) -> None:
    unequal = replace(CONFIG, loss=replace(CONFIG.loss, adversarial_share=0.0))
    with pytest.raises(ConfigError, match=r"equal gradient norms: expected loss.adversarial_share above 0, found 0"):
        list_runs(unequal, tmp_path, ["nad"], [0], 10)
    for joins in (0, 40):
        settings = replace(CONFIG.discriminator, from_step=joins, warmup_steps=0)
        with pytest.raises(ConfigError, match=rf"from_step from 1 to below optim.steps \(40\), found {joins}"):
            list_runs(replace(CONFIG, discriminator=settings), tmp_path, ["nad"], [0], 10)


def test_shipped_configuration_is_one_that_can_be_compared(tmp_path: Path) -> None:
    config = load_config(SHIPPED, [])
    assert len(list_runs(config, tmp_path, list(ROWS), [0, 1, 2, 3], 300)) == 4 + 16
    assert config.discriminator.warmup_steps == config.discriminator.from_step


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
    train_all(runs_of(tmp_path, "start", "none", "nad"), tmp_path, (), jobs=2)
    assert seen[:2] == [("begin", "start"), ("end", "start")]
    assert {name for what, name in seen if what == "end"} == {"start", "none", "nad"}


def test_after_a_failure_nothing_more_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = no_runs(monkeypatch, fail="none")
    with pytest.raises(ConfigError, match="none failed"):
        train_all(runs_of(tmp_path, "start", "none", "nad"), tmp_path, (), jobs=1)
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


def results(seeds: int = 4) -> dict[str, Any]:
    """NAD has 0.02 less LPIPS than none, give or take 0.001; the CNN is no better, and has not learned."""
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        wobble = 0.001 * (-1) ** seed
        for row, lpips, joined in (("none", 0.30, None), ("nad", 0.28, 1.0), ("pixel", 0.30 + wobble, 1.35)):
            scores = {"PSNR-Y": 30.0, "LPIPS": lpips + wobble * (row == "nad"), "AUC": 0.995, "DISTS": 0.2}
            losses = {} if joined is None else {JOINED: joined, ENDED: 1.3}
            runs.append({"row": row, "seed": seed, "scores": {"held": scores | losses}})
    plain = {"held": {"PSNR-Y": 28.0, "LPIPS": 0.4, "AUC": 1.0, "DISTS": 0.3}}
    facts = {"steps": 40, "share": 0.5, "perceptual": "ea_dists", "bicubic": plain}
    return facts | {"photographs": {"held": {"AUC": 0.5}}, "runs": runs}


def cells_of(text: str, label: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {label} ")]


def test_report_has_scores_differences_seed_by_seed_and_what_they_mean() -> None:
    text = report(results())
    assert "The adversarial gradient's norm is 0.5 of the other terms'" in text
    assert cells_of(text, "bicubic")[0][1:5] == ["28.00", "0.4000", "0.3000", "1.0000"]
    assert cells_of(text, "NAD")[0][1:] == [
        *("30.00 ± 0.00", "0.2800 ± 0.0012", "0.2000 ± 0.0000", "0.9950 ± 0.0000"),
        *("1.000 ± 0.000", "1.300 ± 0.000"),
    ]
    # Deviation 0.001 * 2 / sqrt(3); half an interval 3.182 * that / 2.
    difference = cells_of(text, "NAD - no discriminator")[0]
    assert difference[1:] == ["LPIPS", "-0.0200 ± 0.0012", "-0.0218 to -0.0182", "4 of 4", "0.125"]
    assert not any("DISTS" in line for line in text.splitlines() if line.startswith("| NAD - "))  # trained on
    assert "- NAD against no discriminator, 4 seeds: better by LPIPS; no difference shown by AUC." in text
    assert "- pixel CNN does not count: its discriminator had not learned" in text
    assert "- The classifier tells all rows from photographs (AUC 0.9950 or more): AUC decides nothing here." in text
    assert spread([], "LPIPS") == ""
    assert gate(results()) == {"nad": [1.0] * 4, "pixel": [1.35] * 4}


def test_three_seeds_conclude_nothing() -> None:
    assert "NAD against no discriminator: nothing can be concluded; expected 4 seeds or more, found 3." in report(
        results(3)
    )


def test_differences_are_of_equal_seeds() -> None:
    content = results()
    content["runs"] = [run for run in content["runs"] if (run["row"], run["seed"]) != ("nad", 0)]
    assert len(all_compared(content, "held")[("nad", "none")]["LPIPS"].differences) == 3


def test_plot_shows_every_seed_and_the_discriminator() -> None:
    compared = all_compared(results(), "held")
    labels = {rows: " - ".join(rows) for rows in compared}
    figure = plot({"held": compared}, labels, {"nad": [([10, 20], [1.4, 1.2])]})
    lpips, auc, losses = figure.axes
    assert ("held: LPIPS" in lpips.get_title(), "held: AUC" in auc.get_title()) == (True, True)
    drawn = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in lpips.lines])
    for own in compared[("nad", "none")]["LPIPS"].differences:
        assert np.isclose(drawn, own).any()
    assert any(np.allclose(np.asarray(line.get_ydata(), dtype=float), CHANCE) for line in losses.lines)
    assert to_image(figure).width > 1000


def small_setting(place: Path) -> argparse.Namespace:
    """Three steps on crops of 32 with small networks, two pairs of 8 to 32."""
    write_material(place)
    settings = {
        "model": {"base": str(place / "base"), "rank": 4, "lora_alpha": 4, "prompt_tokens": 5},
        "data": {"photos": str(place / "photos"), "crop": 32, "batch_size": 2}
        | {"micro_batch": 2, "workers": 0, "presets": ["camera"]},
        "loss": {"perceptual": "none", "adversarial_share": 0.5},
        "discriminator": {"kind": "none", "lr": 1e-3, "rank": 4, "lora_alpha": 4, "from_step": 1, "warmup_steps": 1},
        "optim": {"steps": 3, "lr": 1e-3, "ema": 0},
        "validation": {"count": 0},
        "run": {"device": "cpu", "precision": "no", "log_every": 1},
    }
    (place / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return argparse.Namespace(
        config=place / "config.yaml",
        out=place / "out",
        start_steps=1,
        pairs=[f"held={place / 'pairs'}"],
        seeds=[0],
        rows=["none", "nad"],
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
    for label in ("bicubic", "the photographs themselves", "start (MSE)", "no discriminator", "NAD"):
        assert cells_of(printed, label), label
    assert "nothing can be concluded; expected 4 seeds or more, found 1" in printed
    names = {"ablation.json", "crops.png", "plot.png", "results.json", "seed0", "report.md"}
    assert {path.name for path in args.out.iterdir()} == names
    folder = args.out / "seed0"
    start, none, nad = (load_lora(folder / row / "last.safetensors") for row in ("start", "none", "nad"))
    assert any(not torch.equal(none.pairs[name].up, nad.pairs[name].up) for name in none.pairs)
    assert start.metadata.train_config["trained_steps"] == 1
    assert nad.metadata.train_config["discriminator"]["kind"] == "nad"
    weights = [json.loads(line) for line in (folder / "nad" / "metrics.jsonl").read_text().splitlines()]
    shares = [0.5 * row["grad/fidelity"] / row["grad/adversarial"] for row in weights if "grad/adversarial" in row]
    assert shares == pytest.approx([row["weight/adversarial"] for row in weights if "weight/adversarial" in row])
    assert len(shares) == 2  # after the warm-up's one step

    # Of the discriminator two states are kept, and they are not the same.
    assert [path.name for path in earlier_checkpoints(folder / "nad")] == [checkpoint_name(1)]
    kept = json.loads((folder / "nad" / "scores.json").read_text())
    scores = kept[str((tmp_path / "pairs").resolve())]
    assert scores[JOINED] == heldout_discriminator_loss(folder / "nad", tmp_path / "pairs", checkpoint_name(1))
    assert scores[ENDED] == heldout_discriminator_loss(folder / "nad", tmp_path / "pairs")
    assert scores[JOINED] != scores[ENDED]
    assert 0.2 * CHANCE < scores[ENDED] < 5 * CHANCE
    assert heldout_discriminator_loss(folder / "none", tmp_path / "pairs") is None
    with pytest.raises(ConfigError, match=r"has no 'checkpoint_00000002.pt'. Delete that folder and train it again"):
        heldout_discriminator_loss(folder / "nad", tmp_path / "pairs", checkpoint_name(2))

    # Again: all is done, so nothing is trained or scored. A run with more steps to go would be.
    assert AblationRun("nad", 0, folder / "nad", 3, ()).is_done()
    assert not AblationRun("nad", 0, folder / "nad", 4, ()).is_done()
    monkeypatch.setattr(ablation_runs, "train_run", lambda *_: pytest.fail("trained what was done"))
    monkeypatch.setattr(ablation_scores, "_score", lambda *_: pytest.fail("scored what was done"))
    before = (args.out / "results.json").read_text()
    ablate(args)
    assert (args.out / "results.json").read_text() == before
