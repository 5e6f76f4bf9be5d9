"""pyiqa's metrics in `evaluate`, by a stand-in of its interface: which are there, and nothing downloaded unasked."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from support.scored_set import NAMES, Run, runner, write, write_set
from torch import Tensor


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return runner(monkeypatch)


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


def test_published_figures_stand_beside_a_whole_benchmark(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(65):
        write(tmp_path / "set" / "LR" / f"{number}.png", (6, 4), number)
        write(tmp_path / "set" / "ours" / f"{number}.png", (24, 16), number)
    fake_pyiqa(monkeypatch, niqe=lambda x: x.mean())
    out = tmp_path / "out"
    assert run(tmp_path / "set", "--benchmark", "RealSet65-full", "--sr", tmp_path / "set" / "ours", "--out", out) == 0
    table = (out / "scores.md").read_text()
    assert table.startswith("RealSet65, protocol `full` (whole images, as in the papers DFOSD and D3SR), 65 images:")
    assert "| *DFOSD, 1 step* | 3.9580 | quoted: DFOSD, the authors' repository, Table 1; " in table
    assert "| measured here |" in next(line for line in table.splitlines() if line.startswith("| ours |"))
    assert "69.69" not in table  # MUSIQ was not measured here
    report = (out / "report.html").read_text()
    assert report.count("<b>quoted</b>") == table.count("quoted: ") == 10
    (tmp_path / "set" / "LR" / "0.png").unlink()
    assert (
        run(
            tmp_path / "set",
            "--benchmark",
            "RealSet65-full",
            "--sr",
            tmp_path / "set" / "ours",
            "--out",
            tmp_path / "less",
        )
        == 0
    )
    assert "64 of its 65 images" in (tmp_path / "less" / "scores.md").read_text()
    assert "quoted" not in (tmp_path / "less" / "scores.md").read_text()
