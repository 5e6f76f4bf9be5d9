"""Small pictures with something beside their pixels, and what a program has kept of one: docs/formats.md's table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dfosd_core.image_files.icc import SRGB_PRIMARIES, curve, make_profile
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.write import write_image

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
COLUMNS = (
    "pixels",
    "16 bits",
    "grey",
    "transparency",
    "colour profile",
    "EXIF",
    "PNG's texts",
    "JPEG's comment",
    "resolution",
)
PARAMETERS = "a tree\nSteps: 20, Seed: 1"
_CAMERA = "DFOSD's camera"


def write_pictures(folder: Path, width: int = 9) -> list[Path]:
    """Files of 7 rows: 16-bit colour, colours hidden under transparency, grey, a photograph, a generated one."""
    rng = np.random.default_rng(5)

    def noise(channels: int, kind: type[np.uint8 | np.uint16] = np.uint8) -> np.ndarray:
        return rng.integers(0, np.iinfo(kind).max, (7, width, channels), kind, endpoint=True)

    profile = make_profile("linear", curve(1.0), SRGB_PRIMARIES)
    exif = Image.Exif()
    exif[271], exif[274] = _CAMERA, 6
    hidden = noise(4)
    hidden[..., 3] = np.where(np.arange(width) < 4, 0, hidden[..., 3] | 1)
    files = {
        "deep.png": Picture(samples=noise(3, np.uint16), metadata=ImageMetadata(icc_profile=profile, dpi=(300, 300))),
        "hidden.png": Picture(samples=hidden, metadata=ImageMetadata(dpi=(300, 300))),
        "grey.png": Picture(samples=noise(1)),
        "generated.png": Picture(samples=noise(3), metadata=ImageMetadata(text=(("parameters", PARAMETERS),))),
    }
    for name, picture in files.items():
        write_image(folder / name, picture)
    photo = Image.fromarray(noise(3))
    photo.save(folder / "photo.jpg", exif=exif.tobytes(), icc_profile=profile, dpi=(300, 300), comment=b"mine")
    return [folder / name for name in (*files, "photo.jpg")]


def outcomes(given: Picture, result: Picture, expected: Picture) -> Iterator[tuple[str, str]]:
    """(column, what became of it). `expected`: the command's result for the pixels that the program has handed over."""
    # Forge hides a generation's parameters in the last bit of an opacity of its own.
    shown = result if expected.has_alpha else result.without_alpha()
    same = np.array_equal(shown.with_three_colors().samples, expected.with_three_colors().samples)
    yield "pixels", "equal" if same else "different"
    before, after = given.metadata, result.metadata
    names, kept_texts = dict(before.text), "kept" if set(before.text) <= set(after.text) else "no"
    stated = {
        "16 bits": (given.is_16_bit, "kept" if result.is_16_bit else "8 bits"),
        "grey": (given.is_grey, "kept" if result.is_grey else "as RGB"),
        "transparency": (given.has_transparency, "kept" if result.has_transparency else "no"),
        "colour profile": (before.icc_profile, "kept" if before.icc_profile == after.icc_profile else "no"),
        "EXIF": (before.exif, "kept" if _CAMERA.encode() in (after.exif or b"") else "no"),
        "PNG's texts": ("parameters" in names, kept_texts),
        "JPEG's comment": ("Comment" in names, kept_texts),
        "resolution": (before.dpi, "kept" if after.dpi and abs(after.dpi[0] - 300) < 0.1 else "no"),
    }
    yield from ((column, what) for column, (is_there, what) in stated.items() if is_there)


def row(results: Mapping[Path, tuple[Path, Picture]]) -> str:
    """The table's cells for a program. `results`: file -> (the program's result, the picture it should be)."""
    cells: dict[str, set[str]] = defaultdict(set)
    for source, (result, expected) in results.items():
        for column, what in outcomes(read_image(source), read_image(result), expected):
            cells[column].add(what)
    return " | ".join(", ".join(sorted(cells[column])) for column in COLUMNS)


def documented() -> dict[str, str]:
    """Program -> its cells, as docs/formats.md has them."""
    rows = [line.strip("| ").split(" | ", 1) for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| ")]
    return {name: cells for name, *rest in rows for cells in rest}
