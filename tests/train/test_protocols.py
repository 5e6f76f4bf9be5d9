"""The field's two protocols, and published figures beside ours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.scored_set import write

from dfosd_core.errors import ConfigError
from train_tools.scoring.metrics import METRICS
from train_tools.scoring.sets import BENCHMARKS, open_set
from train_tools.scoring.tables import markdown, quoted_rows


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
