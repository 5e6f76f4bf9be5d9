"""Contact sheets: every image in its place, and never half a file."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from PIL import Image
from torch import Tensor

from train_tools.scoring.pictures import GAP_PX, LINE_PX, SheetRow, contact_sheet, read_image, save_picture, to_picture

CELL = 16
PITCH = CELL + GAP_PX


def plain(value: float, height: int = CELL, width: int = CELL) -> Tensor:
    return torch.full((1, 3, height, width), value)


def test_cells_are_rows_by_columns_under_the_titles() -> None:
    rows = [SheetRow(images=[plain(0.2), plain(0.4)]), SheetRow(images=[plain(0.6), plain(0.8)])]
    sheet = contact_sheet(rows, ("a", "b"), CELL)
    assert sheet.size == (2 * CELL + GAP_PX, LINE_PX + 2 * PITCH)
    middles = [(x * PITCH + CELL // 2, LINE_PX + y * PITCH + CELL // 2) for y in (0, 1) for x in (0, 1)]
    assert [sheet.getpixel(middle) for middle in middles] == [(51,) * 3, (102,) * 3, (153,) * 3, (204,) * 3]


def test_small_image_is_enlarged_to_the_last_ones_size_and_cropped_alike() -> None:
    halves = torch.cat([plain(0.0, 12, 6), plain(1.0, 12, 6)], dim=3)  # its edge stays in the middle
    large = torch.cat([plain(0.0, 48, 24), plain(1.0, 48, 24)], dim=3)
    sheet = contact_sheet([SheetRow(images=[halves, large])], ("LR", "HR"), CELL)
    cells = [sheet.crop((x, LINE_PX, x + CELL, LINE_PX + CELL)) for x in (0, PITCH)]
    assert cells[0].tobytes() == cells[1].tobytes()
    assert [cells[0].getpixel((x, 8)) for x in (7, 8)] == [(0, 0, 0), (255, 255, 255)]


def test_captions_make_room_below_each_row() -> None:
    row = SheetRow(images=[plain(0.5), plain(0.5)], captions=["one", "two"])
    sheet = contact_sheet([row, row], ("a", "b"), CELL)
    assert sheet.height == LINE_PX + 2 * (PITCH + LINE_PX)
    below = sheet.crop((0, LINE_PX + CELL, sheet.width, LINE_PX + PITCH + LINE_PX))
    assert min(below.convert("L").tobytes()) < 100  # something is written there


def test_picture_file_is_what_was_drawn(tmp_path: Path) -> None:
    image = torch.arange(3 * 4 * 5).reshape(1, 3, 4, 5) / 255
    save_picture(to_picture(image), tmp_path / "new" / "a.png")
    assert torch.equal(read_image(tmp_path / "new" / "a.png"), image)


def test_failed_save_leaves_the_old_picture_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(to_picture(plain(0.2)), tmp_path / "a.png")

    def half(self: Image.Image, file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_picture(to_picture(plain(0.8)), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert read_image(tmp_path / "a.png").mean().item() == pytest.approx(0.2)
