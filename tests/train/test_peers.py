"""The peers' images: what is missing is said in one line, and a network's numbers become pixels and back."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import peers


class Extractor:
    """Nearest neighbour, a little out of range."""

    def input(self, name: str, values: Any) -> None:
        assert name == "data"
        self.values = values

    def extract(self, name: str) -> tuple[int, Any]:
        assert name == "output"
        return 0, self.values.repeat(4, axis=1).repeat(4, axis=2) * 1.01 - 0.005


class Net:
    """As much of ncnn.Net as is used."""

    def create_extractor(self) -> Extractor:
        return Extractor()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(peers, "PEERS", (peers.Peer("SPAN", "no_such_package", "x"),))
    monkeypatch.setattr(sys, "argv", ["peers", str(tmp_path), "-o", str(tmp_path / "out")])
    assert peers.main() == 1
    assert capsys.readouterr().err == "peers: SPAN needs ncnn and no_such_package: pip install ncnn no_such_package.\n"
    assert not (tmp_path / "out").exists()


def test_pixels_keep_their_places_and_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", types.SimpleNamespace(Mat=lambda values: values))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    larger = peers.enlarge(Net(), pixels)
    assert larger.shape == (20, 28, 3)
    wanted = pixels.repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(larger.astype(int) - wanted).max() <= 2
    assert {int(larger[wanted == 0].max(initial=0)), int(larger[wanted == 255].min(initial=255))} <= {0, 255}
