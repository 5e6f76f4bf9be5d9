"""The command that draws docs/strength.md's picture and table."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from train_tools.scoring import strength
from train_tools.scoring.pictures import save_picture, to_picture


def test_row_of_strengths_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, edge in (("LR", 16), ("HR", 64)):
        image = torch.rand(1, 3, edge, edge, generator=torch.Generator().manual_seed(edge))
        save_picture(to_picture(image), tmp_path / side / "a.png")
    out = tmp_path / "row.png"
    arguments = ["x", str(tmp_path), "-o", str(out), "--crop", "8", "8", "20"]
    monkeypatch.setattr(sys, "argv", arguments)
    strength.main()
    table = capsys.readouterr().out
    assert re.findall(r"^\| ([\w .]+) \| \d+\.\d\d \| -?\d\.\d{4} \|$", table, re.MULTILINE) == [
        "bicubic",
        *(f"strength {s:g}" for s in strength.STRENGTHS),
    ]
    with Image.open(out) as row:
        assert row.width == 6 * (60 + 4) - 4
        pixels = row.convert("RGB")
    top, last = row.height - 64, 5 * 64
    with Image.open(tmp_path / "HR" / "a.png") as original:
        assert pixels.getpixel((last + 30, top + 31)) == original.convert("RGB").getpixel((8 + 10, 8 + 10))
    assert len({pixels.crop((i * 64, top, i * 64 + 60, top + 60)).tobytes() for i in range(6)}) == 6


def test_page_shows_the_picture_that_the_command_draws() -> None:
    page = Path(__file__).parents[2] / "docs" / "strength.md"
    assert "(strength.png)" in page.read_text("utf-8")
    with Image.open(page.with_suffix(".png")) as picture:
        assert picture.width == (2 + len(strength.STRENGTHS)) * (88 * strength.ZOOM + 4) - 4
