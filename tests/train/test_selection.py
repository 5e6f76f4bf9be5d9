"""Which crops a prepared set has and how often each is drawn: texture, flat share, weights, names of the sources."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfosd_core.errors import ConfigError
from train_tools.credits import used_rows
from train_tools.data.crops import CropDataset
from train_tools.data.photos import PhotoFolder
from train_tools.data.prepare_crops import CropSettings
from train_tools.data.prepared_set import IndexRow, PreparedSet, read_index, read_sources
from train_tools.data.selection import Folder, read_weights, weight_of
from train_tools.data.texture import TEXTURED, Pixels, texture, texture_of, textured_crop
from train_tools.prepare_data import main, prepare
from train_tools.settings.config import DataConfig

SIZE = 64


def picture(seed: int, flat_rows: int = 2) -> Image.Image:
    """4 x 4 crops of 64 pixels; the upper rows are a sky, the others fine texture."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(128, 20, (4 * SIZE, 4 * SIZE, 3)) + np.kron(rng.normal(0, 30, (8, 8, 1)), np.ones((32, 32, 1)))
    pixels[: flat_rows * SIZE] = 90 + 20 * rng.random(3) + np.linspace(0, 50, 4 * SIZE)[None, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(("people_1", "people_2", "sky_1", "text_1")):
        picture(i).save(folder / f"{name}.png")
    return folder


def prepared(folders: list[Folder], out: Path, flat: float = 0.1, **patterns: float) -> list[IndexRow]:
    return prepare(folders, out, CropSettings(size=SIZE, smallest=SIZE, flat=flat), 1, patterns)


def shares(rows: list[IndexRow]) -> dict[str, float]:
    """Share of all draws, of flat crops and of each photograph's others."""
    found: Counter[str] = Counter()
    for row in rows:
        found["flat" if row.is_flat else row.source] += row.weight  # pyright: ignore[reportArgumentType]
    return {name: value / found.total() for name, value in found.items()}


def test_texture_is_of_the_finest_octave_and_not_of_one_edge() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 8, (64, 64)).astype(np.float32) + 128
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.float32), (64, 1))
    edge = np.where(np.arange(64) < 31, 100, 140).astype(np.float32)[None].repeat(64, 0)
    assert texture(ramp) < 0.1
    assert texture(noise) > TEXTURED
    assert texture(edge) < TEXTURED < texture(np.kron(rng.random((32, 32)) * 60, np.ones((2, 2))))
    assert texture(noise + 60) == pytest.approx(texture(noise), rel=1e-4)
    assert texture(noise[:5, :5]) > 0


def test_textured_crop_takes_the_richest_of_nine() -> None:
    crops = [np.full((32, 32, 3), 100, np.uint8) for _ in range(9)]
    crops[4][::2, 10] = 110
    left = iter(crops)
    assert textured_crop(lambda: next(left)) is crops[4]
    rich = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    left = iter([crops[0], rich, crops[1]])
    assert textured_crop(lambda: next(left)) is rich


@pytest.mark.parametrize("flat", [0.0, 0.1, 0.4])
def test_flat_crops_have_their_share_of_the_draws(photos: Path, tmp_path: Path, flat: float) -> None:
    rows = prepared([Folder(path=photos)], tmp_path / "set", flat)
    assert shares(rows).get("flat", 0.0) == pytest.approx(flat, abs=1e-3)
    assert sum(not row.is_flat for row in rows) == 4 * 8
    assert all((row.texture < TEXTURED) == row.is_flat for row in rows)
    files = {path.name for path in (tmp_path / "set" / "crops").iterdir()}
    assert files == {Path(row.file).name for row in rows}
    assert prepared([Folder(path=photos)], tmp_path / "set", flat) == rows, "again, from the journal"
    assert f"{flat:.1%} of the draws" in (tmp_path / "set" / "report.md").read_text()


def test_weights_of_photographs_leave_the_flat_share_alone(photos: Path, tmp_path: Path) -> None:
    rows = prepared([Folder(path=photos)], tmp_path / "set", **{"people_*": 3.0, "text_1.png": 6.0})
    found = shares(rows)
    assert found["flat"] == pytest.approx(0.1, abs=1e-3)
    assert found["people_1.png"] == pytest.approx(3 * found["sky_1.png"])
    assert found["text_1.png"] == pytest.approx(6 * found["sky_1.png"])


def test_a_set_is_drawn_by_its_weights_and_keeps_its_skies(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    expected = shares(prepared([Folder(path=photos)], out, 0.25, **{"people_*": 3.0}))
    source = PreparedSet(out, 48)
    rng = np.random.default_rng(0)
    drawn = [source.cut(rng) for _ in range(600)]
    assert sum(texture_of(crop) < TEXTURED for crop in drawn) / 600 == pytest.approx(0.25, abs=0.06)
    dataset = CropDataset.open(DataConfig(photos=out, crop=48, presets=["camera"]), seed=0)
    flat = [texture_of(((dataset[k][1].permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)) for k in range(200)]
    assert np.mean(np.array(flat) < TEXTURED) == pytest.approx(0.25, abs=0.1)
    names = Counter(_source(crop, out) for crop in drawn[:300])
    assert names["people_1.png"] / 300 > 1.8 * expected["sky_1.png"]


def _source(crop: Pixels, out: Path) -> str:
    """Whose crop it is: the file that holds its first line."""
    for row in read_index(out):
        pixels = np.asarray(Image.open(out / row.file).convert("RGB"))
        line = crop[0]
        if any((pixels[y, x : x + len(line)] == line).all() for y in range(17) for x in range(17)):
            return "flat" if row.is_flat else row.source
    return "none"


def test_a_folder_gives_a_tenth_of_its_crops_as_they_come(photos: Path) -> None:
    source, rng = PhotoFolder(photos, 48), np.random.default_rng(0)
    flat = np.mean([texture_of(source.window(rng)) < TEXTURED for _ in range(300)])
    kept = np.mean([texture_of(source.cut(rng)) < TEXTURED for _ in range(300)])
    assert flat > 0.35
    assert 0.01 < kept < 0.1


def test_soft_light_is_no_reason_to_leave_a_photograph_out(photos: Path, tmp_path: Path) -> None:
    """Texture below the limit everywhere, but sharp: its richest crop is taken, as one that teaches."""
    soft = np.full((2 * SIZE, 2 * SIZE, 3), 120.0)
    soft[:SIZE, :SIZE] += np.random.default_rng(0).normal(0, 2.4, (SIZE, SIZE, 1))
    Image.fromarray(soft.round().astype(np.uint8)).save(photos / "soft.png")
    rows = [row for row in prepared([Folder(path=photos)], tmp_path / "set") if row.source == "soft.png"]
    assert [(row.box, row.is_flat) for row in rows] == [((0, 0, SIZE, SIZE), False)]
    assert TEXTURED / 2 <= rows[0].texture < TEXTURED


def test_several_folders_with_weights(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    picture(9, flat_rows=0).save(faces / "a.png")
    (tmp_path / "weights.tsv").write_text("# pattern\tweight\n\nsky_*\t0.5\n")
    command = [str(photos), f"{faces}:4", str(tmp_path / "set"), "--size", "64", "--smallest", "64", "--workers", "1"]
    assert main([*command, "--weights", str(tmp_path / "weights.tsv")]) == 0
    capsys.readouterr()
    weights = {row.source: row.weight for row in read_index(tmp_path / "set") if not row.is_flat}
    assert weights == {
        "faces/a.png": 4.0,
        "photos/people_1.png": 1.0,
        "photos/people_2.png": 1.0,
        "photos/sky_1.png": 0.5,
        "photos/text_1.png": 1.0,
    }
    digest = hashlib.sha256((faces / "a.png").read_bytes()).hexdigest()
    assert read_sources(tmp_path / "set")["faces/a.png"] == digest
    lines = (tmp_path / "set" / "sources.tsv").read_text().splitlines()
    assert lines[:2] == ["file\tsha256\tcrops\tweight", f"faces/a.png\t{digest}\t16\t4"]
    assert main([str(photos), f"{photos}:2", str(tmp_path / "set")]) == 1
    assert "Two of the folders are called 'photos'" in capsys.readouterr().err
    assert main([f"{photos}:0", str(tmp_path / "set")]) == 1
    assert "expected a weight above 0, found 0" in capsys.readouterr().err


def test_lsdir_and_the_first_of_ffhq_are_prepared_as_the_page_says(tmp_path: Path) -> None:
    """Their own folders; of FFHQ only those of the first 10,000 images."""
    ffhq = tmp_path / "FFHQ" / "images1024x1024"
    for i, name in enumerate(("00000/00000.png", "09000/09999.png", "10000/10000.png")):
        (ffhq / name).parent.mkdir(parents=True)
        picture(20 + i).save(ffhq / name)
    (tmp_path / "LSDIR" / "0001000").mkdir(parents=True)
    picture(30).save(tmp_path / "LSDIR" / "0001000" / "0000001.png")
    folders = [str(tmp_path / "LSDIR"), *map(str, sorted(ffhq.glob("0[0-9]000")))]
    assert main([*folders, str(tmp_path / "set"), "--size", "64", "--smallest", "64", "--workers", "1"]) == 0
    assert list(read_sources(tmp_path / "set")) == ["00000/00000.png", "09000/09999.png", "LSDIR/0001000/0000001.png"]


def test_credits_are_made_of_a_set(photos: Path, tmp_path: Path) -> None:
    prepared([Folder(path=photos)], tmp_path / "set")
    table = tmp_path / "LICENCES.tsv"
    rows = [
        f"{path.name}\tCC0-1.0\tA\tnowhere\t{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(photos.iterdir())
    ]
    table.write_text("\n".join(["file\tlicence\tauthor\torigin\tsha256", *rows]) + "\n")
    assert [row["file"] for row in used_rows([tmp_path / "set"], [table])] == sorted(p.name for p in photos.iterdir())
    table.write_text("\n".join(["file\tlicence\tauthor\torigin\tsha256", *rows[1:]]) + "\n")
    with pytest.raises(ConfigError, match=r"people_1\.png' is in none of the tables"):
        used_rows([tmp_path / "set"], [table])
    (tmp_path / "set" / "sources.tsv").unlink()
    with pytest.raises(ConfigError, match=r"has no 'sources\.tsv' as prepare_data writes it"):
        used_rows([tmp_path / "set"], [table])


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux's")
def test_names_of_any_kind_come_through(photos: Path, tmp_path: Path) -> None:
    for name, old in (("a\tb\n.png", "text_1.png"), ("\udcff.png", "sky_1.png"), ("\u2028.png", "people_1.png")):
        (photos / old).rename(photos / name)
    rows = prepared([Folder(path=photos)], tmp_path / "set")
    assert read_index(tmp_path / "set") == rows
    assert {row.source for row in rows} == {"a\tb\n.png", "\udcff.png", "\u2028.png", "people_2.png"}
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.iterdir()}
    assert set(read_sources(tmp_path / "set").values()) == digests


def test_a_set_of_an_earlier_version_is_read(photos: Path, tmp_path: Path) -> None:
    rows = prepared([Folder(path=photos)], tmp_path / "set", flat=0.0)
    old = [
        f'{{"file": "{row.file}", "source": "{row.source}", "scale": 1, "box": {list(row.box)}, "sharpness": 0.9, '
        f'"sha256": "{row.sha256}"}}\n'
        for row in rows
    ]
    (tmp_path / "set" / "index.jsonl").write_text("".join(old))
    assert PreparedSet(tmp_path / "set", 48).cut(np.random.default_rng(0)).shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [("a/b", "a/b", 1.0), ("a/b:3", "a/b", 3.0), ("a:b:0.5", "a:b", 0.5), ("C:\\photos", "C:\\photos", 1.0)],
)
def test_a_folder_may_have_a_weight(text: str, path: str, weight: float) -> None:
    assert Folder.from_text(text) == Folder(path=Path(path), weight=weight)


def test_tables_of_weights(tmp_path: Path) -> None:
    table = tmp_path / "w.tsv"
    table.write_text("people_*\t3\nset/*\t2\n[a].png\t5\n")
    weights = read_weights(table)
    assert [weight_of(name, weights) for name in ("x/people_7.png", "set/a.png", "[a].png", "b.png")] == [3, 2, 5, 1]
    table.write_text("people_*\t3\nfaces 4\n")
    with pytest.raises(ConfigError, match=r"line 2: expected PATTERN, a tab and a weight, found 'faces 4'"):
        read_weights(table)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weights(tmp_path / "none.tsv")
