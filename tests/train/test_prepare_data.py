"""prepare_data: what is dropped and why, restart, and the same result whatever the number of workers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dfosd_core.errors import ConfigError
from train_tools import prepare_data
from train_tools.data.crops import CropDataset
from train_tools.data.prepare_crops import CropSettings, SourceResult, likeness
from train_tools.data.prepared_set import IndexRow, read_index
from train_tools.data.selection import ALIKE_BITS, Folder, drop_doubles
from train_tools.prepare_data import JOURNAL, main
from train_tools.settings.config import DataConfig

SETTINGS = CropSettings(size=96, smallest=64)
PHOTOS = Path(__file__).parents[2] / "examples" / "photos" / "train"


def photo(name: str, left: int = 0, edge: int = 200) -> Image.Image:
    with Image.open(PHOTOS / f"{name}.jpg") as image:
        return image.convert("RGB").crop((left, 100, left + edge, 100 + edge - 40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven photographs of all kinds that stay, and ten files that don't."""
    photos = tmp_path / "photos"
    (photos / "deep" / ".hidden").mkdir(parents=True)
    photo("astronaut").save(photos / "a.png")
    photo("grass").convert("CMYK").save(photos / "cmyk.jpg", quality=95)
    deep = np.asarray(photo("gravel").convert("L"), dtype=np.uint16) * 257
    Image.fromarray(deep).save(photos / "deep" / "sixteen.png")
    exif = Image.Exif()
    exif[274] = 6
    photo("rocket", 150).save(photos / "turned.jpg", exif=exif, quality=95)
    photo("hubble_deep_field").quantize(256).save(photos / "palette.png")
    photo("camera", 150).convert("L").save(photos / "grey.webp", lossless=True)
    photo("brick").save(photos / "deep" / "ä b.bmp")

    photo("astronaut").save(photos / "z copy.png")
    photo("astronaut").resize((150, 120)).save(photos / "smaller.jpg", quality=60)
    photo("retina").filter(ImageFilter.GaussianBlur(6)).save(photos / "blurred.png")
    Image.new("RGB", (200, 200), (90, 90, 200)).save(photos / "flat.png")
    photo("grass").resize((40, 40)).save(photos / "tiny.png")
    (photos / "broken.jpg").write_bytes((photos / "cmyk.jpg").read_bytes()[:2000])
    (photos / "empty.png").touch()
    (photos / "notes.txt").write_text("not an image")
    photo("grass").save(photos / "moving.gif", save_all=True, append_images=[photo("gravel")])
    clear = photo("gravel", 50)
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(photos / "clear.png")
    photo("grass").save(photos / "deep" / ".hidden" / "no.png")
    return photos


def prepare(photos: Path, out: Path, settings: CropSettings, workers: int = 2) -> list[IndexRow]:
    return prepare_data.prepare([Folder(path=photos)], out, settings, workers)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOURNAL
    }


def test_each_file_is_kept_or_dropped_for_its_reason(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    rows = prepare(folder, tmp_path / "set", SETTINGS, workers=1)
    assert contents(folder) == before
    kept = {"a.png", "cmyk.jpg", "deep/sixteen.png", "turned.jpg", "palette.png", "grey.webp", "deep/ä b.bmp"}
    assert {row.source for row in rows} == kept
    report = (tmp_path / "set" / "report.md").read_text()
    for line in (
        "17 files: 7 gave",
        "| duplicate | 2 |",
        "| unreadable | 4 |",
        "- `z copy.png`: duplicate: the same file as a.png",
        "- `smaller.jpg`: duplicate: looks like a.png",
        "- `blurred.png`: blurred",
        "- `flat.png`: flat",
        "- `tiny.png`: tiny: 40x40",
        "- `moving.gif`: unreadable: it is animated (2 frames)",
        "- `clear.png`: transparent",
        "- `empty.png`: unreadable: it is empty",
    ):
        assert line in report
    assert str(tmp_path) not in report
    with Image.open(tmp_path / "set" / "contact_sheet.png") as sheet:
        assert sheet.size == (1280, 128 * -(-min(80, len(rows)) // 10))


def test_a_crop_is_the_pixels_that_its_row_says(folder: Path, tmp_path: Path) -> None:
    rows = [row for row in prepare(folder, tmp_path / "set", SETTINGS, workers=1) if row.source == "a.png"]
    with Image.open(folder / "a.png") as source:
        for row in rows:
            pixels = np.asarray(source.crop(row.box))
            assert row.scale == 1
            assert np.array_equal(np.asarray(Image.open(tmp_path / "set" / row.file)), pixels)
            assert row.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert read_index(tmp_path / "set") == prepare(folder, tmp_path / "set", SETTINGS, workers=1)


def test_two_workers_make_the_same_bytes_as_one(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "one", SETTINGS, workers=1)
    prepare(folder, tmp_path / "two", SETTINGS, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def worked_on(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """The names that prepare works on from here on; it is cut off before number `stop_at`."""
    names: list[str] = []
    real = prepare_data.prepare_source

    def spy(path: Path, source: str, out: Path, settings: CropSettings) -> SourceResult:
        if len(names) == stop_at:
            raise KeyboardInterrupt
        names.append(source)
        return real(path, source, out, settings)

    monkeypatch.setattr(prepare_data, "prepare_source", spy)
    return names


def test_a_restart_repeats_nothing_and_ends_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder, tmp_path / "straight", SETTINGS, workers=1)
    out, options = tmp_path / "set", ["--size", "96", "--smallest", "64", "--workers", "1"]
    with monkeypatch.context() as patch:
        first = worked_on(patch, stop_at=6)
        assert main([str(folder), str(out), *options]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    with (out / JOURNAL).open("a") as journal:  # what a kill in the middle of a write leaves
        journal.write('{"source": "half a li')
    (out / "crops" / ".0123456789abcdef-000.webp.4711.part").write_bytes(b"half a crop")
    with monkeypatch.context() as patch:
        second = worked_on(patch)
        assert main([str(folder), str(out), *options]) == 0
    assert len(first) == 6
    assert sorted(first + second) == sorted(set(first + second))
    assert contents(out) == contents(tmp_path / "straight")


def test_changed_new_and_vanished_files_are_taken_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    prepare(folder, out, SETTINGS, workers=1)
    photo("retina", 200).save(folder / "grey.webp", lossless=True)
    photo("camera", 200).save(folder / "new.png")
    (folder / "a.png").unlink()
    names = worked_on(monkeypatch)
    sources = {row.source for row in prepare(folder, out, SETTINGS, workers=1)}
    assert {"new.png", "z copy.png"} <= sources  # the copy's crops had gone with its being a double
    assert "a.png" not in sources
    assert sorted(names) == ["grey.webp", "new.png", "z copy.png"]
    prepare(folder, tmp_path / "afresh", SETTINGS, workers=1)
    assert contents(out) == contents(tmp_path / "afresh")


def test_different_photographs_are_never_doubles() -> None:
    bits = [likeness(np.asarray(photo(path.stem))) for path in sorted(PHOTOS.glob("*.jpg"))]
    distances = [(a ^ b).bit_count() for i, a in enumerate(bits) for b in bits[:i]]
    assert min(distances) > 2 * ALIKE_BITS


def test_every_pair_within_the_limit_is_found(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "set", SETTINGS, workers=1)
    row = read_index(tmp_path / "set")[0]
    rng = np.random.default_rng(0)
    for flips in (*[ALIKE_BITS] * 50, ALIKE_BITS + 1):
        flipped = sum(1 << int(bit) for bit in rng.choice(128, flips, replace=False))
        pair = [
            SourceResult(source=name, stamp=(0, 0), likeness=f"{bits:032x}", rows=[row])
            for name, bits in (("a", 0), ("b", flipped))
        ]
        assert [bool(r.dropped) for r in drop_doubles(pair)] == [False, flips <= ALIKE_BITS]


def test_training_reads_the_set_and_refuses_a_damaged_one(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    rows = prepare(folder, out, SETTINGS, workers=1)
    x_lr, x_hr = CropDataset.open(DataConfig(photos=out, crop=64), seed=0)[0]
    assert x_lr.shape == x_hr.shape == (3, 64, 64)
    with pytest.raises(ConfigError, match="no crop of 128 pixels"):
        CropDataset.open(DataConfig(photos=out, crop=128), seed=0)
    for row in rows:
        (out / row.file).write_bytes(b"")
    with pytest.raises(ConfigError, match="missing or damaged. Run prepare_data again"):
        _ = CropDataset.open(DataConfig(photos=out, crop=64), seed=0)[0]
    (out / "index.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="line 1: expected a line of prepare_data"):
        CropDataset.open(DataConfig(photos=out, crop=64), seed=0)


def test_errors_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no folder"):
        prepare(tmp_path / "nope", tmp_path / "set", SETTINGS)
    with pytest.raises(ConfigError, match="which stay untouched"):
        prepare(folder, tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="Expected 16 <= --smallest <= --size"):
        prepare(folder, tmp_path / "set", CropSettings(size=64, smallest=96))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"No crop is left of the 1 files .* says why"):
        prepare(tmp_path / "bad", tmp_path / "set", SETTINGS, workers=1)
    with pytest.raises(ConfigError, match="made with other settings"):
        prepare(folder, tmp_path / "set", CropSettings(size=128, smallest=64), workers=1)
