"""`evaluate` on test sets: the field's protocols, scores that survive a stop, and pyiqa where it is at hand."""

from __future__ import annotations

import csv
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dfosd_core.errors import ConfigError
from train_tools import evaluate
from train_tools.scoring import sources
from train_tools.scoring.metrics import METRICS, ssim_y
from train_tools.scoring.sets import BENCHMARKS, open_set
from train_tools.scoring.tables import markdown, quoted_rows

DEV = os.environ.get("DFOSD_REALSR_DEV", "")
NAMES = ("a", "b", "c")
Run = Callable[..., int]


def write(path: Path, size: tuple[int, int], seed: int) -> None:
    """A picture of soft noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs, 12x8 to 48x32, and a peer's results beside them."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / "set" / "LR" / f"{name}.png", (12, 8), seed)
        write(tmp_path / "set" / "HR" / f"{name}.png", (48, 32), seed)
        write(tmp_path / "set" / "peer" / f"{name}.png", (48, 32), seed + 1)
    return tmp_path / "set"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments), "--device", "cpu", "--dtype", "float32"])
        return evaluate.main()

    return call


def fake_pyiqa(monkeypatch: pytest.MonkeyPatch, **metrics: object) -> list[str]:
    """pyiqa's interface; what is not in `metrics` wants to download. Returns the names asked for."""
    asked: list[str] = []

    def create_metric(name: str, device: torch.device) -> object:
        assert device == torch.device("cpu")
        asked.append(name)
        sys.stdout.write(f"Downloading {name}\n")
        if name not in metrics:
            socket.getaddrinfo("weights.example", 443)
        return metrics[name]

    module = ModuleType("pyiqa")
    vars(module).update(create_metric=create_metric, __version__="0.1.99")
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return asked


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ssim_equals_its_definition_with_pyiqas_conventions() -> None:
    """Every window by itself, in numpy: Y in whole levels, contrast times structure never negative."""
    x = torch.rand(1, 3, 14, 13, generator=torch.Generator().manual_seed(1))
    y = 1 - 0.6 * x  # a negative: structure is below 0
    levels = [np.round((each[0].permute(1, 2, 0).numpy() * [65.481, 128.553, 24.966]).sum(2) + 16) for each in (x, y)]
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    found: list[float] = []
    for top in range(4):
        for left in range(3):
            a, b = (level[top : top + 11, left : left + 11] for level in levels)
            mean_a, mean_b = (a * window).sum(), (b * window).sum()
            var_a, var_b = (a**2 * window).sum() - mean_a**2, (b**2 * window).sum() - mean_b**2
            covariance = (a * b * window).sum() - mean_a * mean_b
            structure = max(0.0, (2 * covariance + 58.5225) / (var_a + var_b + 58.5225))
            found.append((2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025) * structure)
    assert ssim_y(x, y) == pytest.approx(np.mean(found), abs=1e-9)
    shifted = torch.roll(x, 1, 3)
    assert 0 <= ssim_y(x, shifted) < 1


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


def test_pyiqas_metrics_join_ours_and_missing_weights_are_said_once(
    pairs: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: list[list[list[str]]] = []

    def fid(images: str, references: str, **options: object) -> float:
        assert options == {"num_workers": 0, "verbose": False}
        compared.append([sorted(p.name for p in Path(each).iterdir()) for each in (images, references)])
        return float(Path(images, "a.png").read_bytes() != Path(references, "a.png").read_bytes()) * 12.5

    asked = fake_pyiqa(
        monkeypatch,
        lpips=lambda x, y: (x - y).abs().mean().reshape(1, 1),
        niqe=lambda x: x.mean().reshape(1),
        fid=fid,
    )
    write(pairs / "peer" / "leftover.png", (48, 32), 0)  # no image of the set: FID must not see it
    assert run(pairs, "--sr", pairs / "peer", "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert asked == ["lpips", "dists", "fid", "niqe", "musiq", "maniqa-pipal", "clipiqa"]
    assert "Downloading" not in out
    left_out = (
        "Left out: DISTS, MUSIQ, MANIQA, CLIPIQA. Their weights are not on this machine; --download fetches them."
    )
    assert err.splitlines().count(left_out) == 1
    assert out.splitlines()[2] == "| method | PSNR-Y | SSIM-Y | LPIPS | FID (3 images) | NIQE |"
    assert compared == [[[f"{name}.png" for name in NAMES]] * 2] * 2
    assert out.splitlines()[-1].split(" | ")[4] == "12.50"
    assert run(pairs, "--sr", pairs / "peer", "--out", tmp_path / "out") == 0
    assert len(compared) == 2
    fake_pyiqa(monkeypatch)
    assert run(pairs, "--sr", pairs / "peer", "--out", tmp_path / "out") == 1
    assert "holds metrics " in capsys.readouterr().err


def test_a_metric_that_fails_names_the_image(
    pairs: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def niqe(_: Tensor) -> Tensor:
        raise ValueError("the image is too small\nfor NIQE")

    fake_pyiqa(monkeypatch, niqe=niqe)
    assert run(pairs, "--sr", pairs / "peer") == 1
    assert capsys.readouterr().err.endswith(
        "evaluate: pyiqa's NIQE fails on 'a': ValueError: the image is too small.\n"
    )


def test_downloads_happen_only_when_asked_for(
    pairs: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached: list[object] = []

    def getaddrinfo(*where: object) -> object:
        reached.append(where)
        raise OSError("down")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    fake_pyiqa(monkeypatch)
    assert run(pairs, "--sr", pairs / "peer") == 0
    assert not reached
    assert socket.getaddrinfo is getaddrinfo
    assert run(pairs, "--sr", pairs / "peer", "--download") == 0
    assert reached
    assert "Left out: LPIPS. pyiqa cannot make it: OSError: down." in capsys.readouterr().err


def test_a_set_without_references_gets_the_metrics_that_need_none(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(NAMES):
        write(tmp_path / "set" / "LR" / f"{name}.jpg", (12, 8), seed)
    asked = fake_pyiqa(monkeypatch, niqe=lambda x: x.mean())
    sheet = tmp_path / "sheet.png"
    assert run(tmp_path / "set", "--out", tmp_path / "out", "--sheet", sheet) == 0
    assert asked == ["niqe", "musiq", "maniqa-pipal", "clipiqa"]
    assert capsys.readouterr().out.splitlines()[2] == "| method | NIQE |"
    assert Image.open(tmp_path / "out" / "images" / "DFOSD" / "a.png").size == (48, 32)
    assert Image.open(sheet).width == 3 * 260 - 4


def test_a_set_without_references_needs_pyiqa(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set" / "LR" / "a.png", (12, 8), 0)
    assert run(tmp_path / "set") == 1
    assert "evaluate: There is nothing to measure: the set has no references" in capsys.readouterr().err


def test_protocols_are_told_by_size(tmp_path: Path) -> None:
    for part, size in (("test_LR", (128, 128)), ("test_HR", (512, 512)), ("test_sr_bicubic", (512, 512))):
        write(tmp_path / "crops" / part / "a.png", size, 0)
    crops = open_set(tmp_path / "crops", "RealSR-crops")
    assert crops.caption == (
        "RealSR, protocol `crops` (centre crops as StableSR published them, 128x128 to 512x512), 1 of its 100 images"
    )
    assert open_set(tmp_path / "crops").protocol == "own"
    with pytest.raises(
        ConfigError, match="The protocol full has whole images, found 'a' with 128x128 and 512x512, a cr"
    ):
        open_set(tmp_path / "crops", "RealSR-full")
    for part, size in (("LR", (150, 100)), ("HR", (600, 400))):
        write(tmp_path / "full" / part / "a.png", size, 0)
    with pytest.raises(
        ConfigError, match="The protocol crops has 128x128 and 512x512 images, found 'a' with 150x100 a"
    ):
        open_set(tmp_path / "full", "RealSR-crops")
    (tmp_path / "full" / "set.json").write_text('{"benchmark": "RealSR-full", "note": "made here"}')
    assert open_set(tmp_path / "full").caption.endswith("1 of its 100 images; made here")
    with pytest.raises(ConfigError, match="was prepared as RealSR-full, found --benchmark DRealSR-full"):
        open_set(tmp_path / "full", "DRealSR-full")
    (tmp_path / "full" / "set.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"set\.json' is not as prepare_benchmark writes it"):
        open_set(tmp_path / "full")


def whole_set(name: str, protocol: str, is_whole: bool = True) -> Any:
    return SimpleNamespace(name=name, protocol=protocol, is_whole_benchmark=is_whole)


def test_quoted_rows_are_of_the_same_protocol_and_of_whole_sets() -> None:
    crops, full = (
        {row.method: row.scores["MUSIQ"] for row in quoted_rows(whole_set("RealSR", protocol))}
        for protocol in ("crops", "full")
    )
    assert crops["OSEDiff"] == 69.09
    assert full["OSEDiff, 1 step"] == 67.31
    assert full["DFOSD, 1 step"] == 69.21
    assert not crops.keys() & full.keys()
    assert quoted_rows(whole_set("RealSR", "crops", is_whole=False)) == []
    table = markdown({"DFOSD": {"MUSIQ": 50.0}}, 100, quoted_rows(whole_set("RealSR", "crops")))
    assert "| DFOSD | 50.00 | measured here |" in table
    assert "| *OSEDiff* | 69.09 | quoted: OSEDiff, arXiv 2406.08177 |" in table


def test_published_figures_are_plausible_and_sourced() -> None:
    """A slip in typing is most likely a digit too many or a column off."""
    ranges = {
        "PSNR-Y": (15, 40),
        "SSIM-Y": (0.4, 1),
        "LPIPS": (0.1, 0.6),
        "DISTS": (0.1, 0.4),
        "FID": (10, 300),
        "NIQE": (2, 12),
        "MUSIQ": (25, 80),
        "MANIQA": (0.3, 0.8),
        "CLIPIQA": (0.3, 0.9),
    }
    assert ranges.keys() == METRICS.keys()
    for known in BENCHMARKS.values():
        rows = quoted_rows(whole_set(known.name, known.protocol))
        assert rows, known
        for row in rows:
            assert row.source
            assert all(ranges[metric][0] < value < ranges[metric][1] for metric, value in row.scores.items()), row
