from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dfosd_core.cli import dry_run

Run = Callable[..., tuple[int, str, str]]


def test_dry_run_says_everything_and_writes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "free_memory", lambda _: 12_340_000_000)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("L", (300, 200)).save(tmp_path / "b.jpg")
    (tmp_path / "c.png").write_text("no image")
    code, out, err = run(tmp_path, "-o", tmp_path / "new", "--dry-run", "--unet-tile", "512", "--vae-tile", "1024")
    memory = r"about \d+\.\d GB"
    first, second, last = out.splitlines()
    assert re.fullmatch(
        re.escape(f"{tmp_path / 'a.png'}: 40x30 -> 160x120; encode whole, unet whole, decode whole; ") + memory, first
    )
    tiles = "encode 2x1 of 728x800, unet 3x2 of 486x464, decode 2x1 of 728x800; "
    assert re.fullmatch(re.escape(f"{tmp_path / 'b.jpg'}: 300x200 -> 1200x800; {tiles}") + memory, second)
    assert last == "free memory: 12.3 GB"
    assert err == f"dfosd: '{tmp_path / 'c.png'}' is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image.\n"
    assert code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.jpg", "c.png"]


def test_dry_run_says_what_does_not_fit_and_leaves_out_what_exists(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "free_memory", lambda _: 1000)
    code, out, err = run(photo, "--dry-run")
    assert (code, out) == (1, "free memory: 0.0 GB\n")
    assert err == (
        f"dfosd: '{photo}': A result of 36x28 needs about 0.0 GB of memory even with small tiles, 0.0 GB are free. "
        "Free some memory or use a smaller scale.\n"
    )
    photo.with_name("photo_x4.png").touch()
    code, out, err = run(photo.parent, "--dry-run")
    assert (code, out) == (0, "")
    assert "dfosd: 1 of 1 results exist and were not touched. Use --overwrite to replace them.\n" in err
