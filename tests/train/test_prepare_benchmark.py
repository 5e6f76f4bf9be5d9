"""The field's test sets out of their original folders: what belongs together, how many, how large."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from dfosd_core.errors import ConfigError
from train_tools import prepare_benchmark
from train_tools.prepare_benchmark import prepare
from train_tools.scoring.sets import open_set


def write(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)


def realsr(root: Path, count: int = 50) -> Path:
    for camera in ("Canon", "Nikon"):
        for number in range(1, count + 1):
            stem = root / camera / "Test" / "4" / f"{camera}_{number:03d}"
            write(stem.with_name(f"{stem.name}_HR.png"), 24, 16)
            write(stem.with_name(f"{stem.name}_LR4.png"), 6, 4)
    return root


def test_realsr_becomes_pairs_of_the_protocol_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = realsr(tmp_path / "RealSR(V3)")
    write(source / "Canon" / "Test" / "4" / "Canon_007_HR.png", 27, 18)  # a few columns and rows more than 4 x LR
    monkeypatch.setattr(sys, "argv", ["program", "RealSR", str(source), str(tmp_path / "set")])
    assert prepare_benchmark.main() == 0
    assert "100 images in" in capsys.readouterr().out
    found = open_set(tmp_path / "set")
    assert (found.name, found.protocol, found.is_whole_benchmark) == ("RealSR", "full", True)
    assert list(found.lr)[:2] == ["Canon_001", "Canon_002"]
    original = source / "Nikon" / "Test" / "4" / "Nikon_050_HR.png"
    assert found.hr["Nikon_050"].read_bytes() == original.read_bytes()
    assert Image.open(found.hr["Canon_007"]).size == (24, 16)
    assert all(found.read(name).scale == 4 for name in found.lr)
    assert prepare_benchmark.main() == 1
    assert "prepare_benchmark: '" in capsys.readouterr().err


def test_drealsr_is_found_below_its_folder_too(tmp_path: Path) -> None:
    for number in range(93):
        write(tmp_path / "DRealSR" / "Test_x4" / "test_HR" / f"DSC_{number}_x4.png", 16, 16)
        write(tmp_path / "DRealSR" / "Test_x4" / "test_LR" / f"DSC_{number}_x1.png", 4, 4)
    assert prepare("DRealSR", tmp_path / "DRealSR", tmp_path / "set") == 93
    assert "DSC_92" in open_set(tmp_path / "set").lr


def test_div2k_gets_its_small_images_here_and_says_so(tmp_path: Path) -> None:
    for number in range(801, 901):
        write(tmp_path / "DIV2K_valid_HR" / f"{number:04d}.png", 34, 33)
    assert prepare("DIV2K-val", tmp_path, tmp_path / "set") == 100
    assert prepare("DIV2K-val", tmp_path / "DIV2K_valid_HR", tmp_path / "again") == 100
    found = open_set(tmp_path / "set")
    assert "LR images made here" in found.caption
    assert Image.open(found.hr["0801"]).size == (32, 32)
    assert Image.open(found.lr["0801"]).size == (8, 8)
    assert found.lr["0801"].read_bytes() != found.lr["0802"].read_bytes()
    assert found.digest() == open_set(tmp_path / "again").digest()


def test_realset65_has_no_references(tmp_path: Path) -> None:
    for number in range(65):
        write(tmp_path / "RealSet65" / f"{number}.{'jpg' if number % 2 else 'png'}", 9, 7)
    assert prepare("RealSet65", tmp_path / "RealSet65", tmp_path / "set") == 65
    found = open_set(tmp_path / "set")
    assert found.hr == {}
    assert found.lr["1"].read_bytes() == (tmp_path / "RealSet65" / "1.jpg").read_bytes()
    assert json.loads((tmp_path / "set" / "set.json").read_text())["benchmark"] == "RealSet65-full"


def test_what_is_wrong_with_a_folder_is_said_before_anything_is_written(tmp_path: Path) -> None:
    def refused(name: str, source: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            prepare(name, source, tmp_path / "set")
        assert not (tmp_path / "set").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "Expected the folder of RealSR(V3) with Canon/ and Nikon/, found no" in refused("RealSR", tmp_path)
    assert "Expected 50 images in RealSR's Canon/Test/4, found 3." in refused("RealSR", realsr(tmp_path / "few", 3))
    source = realsr(tmp_path / "RealSR(V3)")
    test = source / "Nikon" / "Test" / "4"
    write(test / "Nikon_002_LR4.png", 24, 16)
    assert "'Nikon_002' are both 24x16: an early version of the set" in refused("RealSR", source)
    write(test / "Nikon_002_LR4.png", 8, 5)
    assert "'Nikon_002' is 24x16, expected 4 times its LR image, 8x5." in refused("RealSR", source)
    (test / "Nikon_002_LR4.png").write_bytes(b"broken")
    assert "Nikon_002_LR4.png' cannot be read as an image." in refused("RealSR", source)
    (test / "Nikon_002_LR4.png").unlink()
    assert "has no pair for 'Nikon_002' (49 LR and 50 HR images)" in refused("RealSR", source)
    write(tmp_path / "RealSet65" / "a.png", 8, 8)
    assert "Expected 65 images in RealSet65, found 1." in refused("RealSet65", tmp_path)
