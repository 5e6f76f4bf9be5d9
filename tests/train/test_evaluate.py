"""`evaluate` on test sets: the field's protocols, scores that survive a stop, and pyiqa where it is at hand."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.scored_set import NAMES, Run, runner, write, write_set
from torch import Tensor

from train_tools.scoring import sources
from train_tools.scoring.metrics import ssim_y

DEV = os.environ.get("DFOSD_REALSR_DEV", "")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return runner(monkeypatch)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ssim_equals_its_definition_with_pyiqas_conventions() -> None:
    """Every window by itself, in numpy: Y in whole levels, contrast times structure never negative."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 14, 30, generator=generator)
    y = 0.7 * x + 0.3 * torch.rand(x.shape, generator=generator)
    y[..., 15:] = 1 - 0.6 * x[..., 15:]  # a negative: structure is below 0
    levels = [np.round((each[0].permute(1, 2, 0).numpy() * [65.481, 128.553, 24.966]).sum(2) + 16) for each in (x, y)]
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    found: list[float] = []
    for top in range(4):
        for left in range(20):
            a, b = (level[top : top + 11, left : left + 11] for level in levels)
            mean_a, mean_b = (a * window).sum(), (b * window).sum()
            var_a, var_b = (a**2 * window).sum() - mean_a**2, (b**2 * window).sum() - mean_b**2
            covariance = (a * b * window).sum() - mean_a * mean_b
            structure = max(0.0, (2 * covariance + 58.5225) / (var_a + var_b + 58.5225))
            found.append((2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025) * structure)
    assert ssim_y(x, y) == pytest.approx(np.mean(found), abs=1e-9)
    assert found.count(0.0) > 10
    assert np.mean(found) > 0.3


@pytest.mark.skipif(not DEV, reason="DFOSD_REALSR_DEV is not set: it names RealSR crops with OSEDiff's images and log")
def test_osediffs_own_log_is_reproduced(run: Run, tmp_path: Path) -> None:
    """osediff_log.csv: what OSEDiff's authors logged with pyiqa for each of their images."""
    dev = Path(DEV)
    assert run(dev, "--benchmark", "RealSR-crops", "--sr", dev / "OSEDiff", "--out", tmp_path) == 0
    with (dev / "osediff_log.csv").open() as file:
        log = {row["name"]: row for row in csv.DictReader(file)}
    with (tmp_path / "scores.csv").open() as file:
        ours = {row["image"]: row for row in csv.DictReader(file) if row["method"] == "OSEDiff"}
    assert ours.keys() == log.keys()
    for name, row in log.items():
        assert float(ours[name]["PSNR-Y"]) == pytest.approx(float(row["psnr_y"]), abs=1e-3), name
        assert float(ours[name]["SSIM-Y"]) == pytest.approx(float(row["ssim_y"]), abs=1e-3), name


def test_folders_are_scored_without_a_model(
    pairs: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "load_models", lambda *_: pytest.fail("no model is needed"))
    (pairs / "peer").rename(tmp_path / "elsewhere")
    assert run(pairs, "--sr", f"peer={tmp_path / 'elsewhere'}", "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert [line.split(" | ")[0] for line in out.splitlines()[4:]] == ["| bicubic", "| peer"]
    assert err.count("pyiqa is not installed") == 1
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["set"], row["protocol"], row["method"], row["image"]) for row in rows[:2]] == [
        ("set", "own", "bicubic", "a"),
        ("set", "own", "bicubic", "b"),
    ]
    assert (tmp_path / "out" / "scores.md").read_text().startswith("set, protocol `own` (own images, not comparable")


def test_results_that_do_not_fit_are_named(
    pairs: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "some" / "a.png", (48, 32), 0)
    for wrong, message in (
        (tmp_path / "some", "some' lacks 2 of 3 results: b, c. Expected a file named like each image of the set."),
        (tmp_path / "none", "found no '"),
    ):
        assert run(pairs, "--sr", wrong) == 1
        assert message in capsys.readouterr().err
    write(pairs / "peer" / "b.png", (48, 36), 0)
    assert run(pairs, "--sr", pairs / "peer") == 1
    assert "b.png' is 48x36, expected 48x32, 4 times the set's small image." in capsys.readouterr().err
    write(tmp_path / "peer" / "a.png", (48, 32), 0)
    for name in NAMES:
        write(tmp_path / "peer" / f"{name}.png", (48, 32), 0)
    assert run(pairs, "--sr", tmp_path / "peer") == 1
    assert "have one name. Give another: --sr NAME=" in capsys.readouterr().err


def test_a_stopped_run_goes_on_where_it_was(
    pairs: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pairs, "--out", tmp_path / "whole") == 0
    whole = capsys.readouterr().out
    real, made = sources.Model.__call__, list[str]()

    def counted(self: sources.Model, sample: sources.Sample) -> Tensor:
        if len(made) == 1:
            made.append("stop")
            raise KeyboardInterrupt
        made.append(sample.name)
        return real(self, sample)

    monkeypatch.setattr(sources.Model, "__call__", counted)
    assert run(pairs, "--out", tmp_path / "out") == 130
    assert "the same command goes on" in capsys.readouterr().err
    with (tmp_path / "out" / "scores.jsonl").open("a") as file:
        file.write('{"method": "DFOSD", "ima')  # killed in the middle of a line
    assert run(pairs, "--out", tmp_path / "out") == 0
    assert made == ["a", "stop", "b", "c"]
    assert capsys.readouterr().out == whole
    assert len(lines(tmp_path / "out" / "scores.jsonl")) == 1 + 3 + 9
    monkeypatch.setattr(sources, "load_models", lambda *_: pytest.fail("all is there"))
    assert run(pairs, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out == whole


def test_scores_of_something_else_are_not_mixed(
    pairs: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(pairs, "--out", out) == 0
    before = (out / "scores.jsonl").read_bytes()
    capsys.readouterr()

    def refused(*more: object) -> str:
        assert run(pairs, "--out", out, *more) == 1
        assert (out / "scores.jsonl").read_bytes() == before
        return capsys.readouterr().err

    assert "holds scores of DFOSD with color_fix wavelet, not none. Results are not mixed" in refused(
        "--color-fix", "none"
    )
    lora = tmp_path / "other.safetensors"
    lora.write_bytes(sources.DEFAULT_WEIGHTS.joinpath(sources.DEFAULT_LORA).read_bytes() + b"\0")
    assert "holds scores of DFOSD with lora_sha256 " in refused("--lora", lora)
    write(pairs / "peer" / "c.png", (48, 32), 9)
    assert "holds scores of peer with images_sha256 " in refused()
    write(pairs / "peer" / "c.png", (48, 32), 3)
    (pairs / "set.json").write_text(json.dumps({"benchmark": "RealSR-full", "note": ""}))
    assert "holds set set, not RealSR. Results are not mixed" in refused()
    (pairs / "set.json").unlink()
    write(pairs / "HR" / "c.png", (48, 32), 9)
    assert "holds set_sha256 " in refused()
    (out / "scores.jsonl").write_text("no scores\n")
    before = (out / "scores.jsonl").read_bytes()
    assert "is not a file of scores. Choose another --out." in refused()


def test_a_second_method_joins_the_first(
    pairs: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pairs, "--out", tmp_path / "out") == 0
    assert run(pairs, "--out", tmp_path / "out", "--name", "no colour fix", "--color-fix", "none") == 0
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [row.split(" | ")[0] for row in table] == ["| bicubic", "| DFOSD", "| peer", "| no colour fix"]


def test_images_of_removed_scores_are_made_anew(pairs: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(pairs, "--sr", pairs / "peer", "--out", out) == 0
    before = (out / "scores.csv").read_text()
    kept = out / "images" / "bicubic" / f"{NAMES[0]}.png"
    write(kept, (48, 32), 9)
    (out / "scores.jsonl").unlink()  # as a refusal advises
    assert run(pairs, "--sr", pairs / "peer", "--out", out) == 0
    assert (out / "scores.csv").read_text() == before


def test_folder_may_have_an_equals_sign_in_its_path(pairs: Path, run: Run, tmp_path: Path) -> None:
    home = tmp_path / "scale=4"
    home.mkdir()
    pairs = pairs.rename(home / "set")  # with the results beside it
    assert run(pairs, "--sr", pairs / "peer", "--out", tmp_path / "a") == 0
    (pairs / "peer").rename(home / "x=y")
    assert run(pairs, "--sr", home / "x=y", f"other={home / 'x=y'}", "--out", tmp_path / "b") == 0
    methods = {line["method"] for line in lines(tmp_path / "b" / "scores.jsonl")[1:]}
    assert methods == {"bicubic", "x=y", "other"}


def test_damaged_image_is_named(pairs: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = pairs / "peer" / f"{NAMES[0]}.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert run(pairs, "--sr", pairs / "peer", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"evaluate: '{broken}' cannot be read as an image. Get it again, or take it out."
