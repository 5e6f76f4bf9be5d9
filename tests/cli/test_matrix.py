"""Each format into each format: nothing is lost without a word, and docs/formats.md says what becomes of it."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files.icc import SRGB_PRIMARIES, curve, make_profile
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.write import check_target, write_image

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WebP": ".webp",
    "AVIF": ".avif",
    "TIFF": ".tif",
    "GIF": ".gif",
    "BMP": ".bmp",
}
DEEP, FLAT = ("PNG", "TIFF"), ("JPEG", "GIF", "BMP")
CHANNELS = {"grey": 1, "grey and alpha": 2, "colour": 3, "colour and alpha": 4}
COLORS: dict[str, Any] = {
    "profile": None,
    "marks": ((b"gAMA", (100000).to_bytes(4, "big")),),
    "code points": ((b"cICP", bytes((12, 13, 0, 1))),),
    "HDR": ((b"cICP", bytes((9, 16, 0, 1))), (b"cLLI", bytes(8))),
}
ROWS = (
    *("16 bits", "grey", "transparency", "colour profile", "colour without a profile", "PQ and HLG"),
    *("EXIF", "XMP", "texts", "IPTC", "GeoTIFF", "resolution"),
)
WORDS = {
    "resolution": "the resolution",
    "EXIF": "EXIF",
    "XMP": "XMP",
    "texts": "text",
    "IPTC": "IPTC",
    "GeoTIFF": "the place on earth",
}
GEO = ((33550, 12, (10.0, 10.0, 0.0)), (34735, 3, (1, 1, 0, 1, 3072, 0, 1, 32633)))


def exif() -> bytes:
    entries = Image.Exif()
    entries[271] = "Camera"
    entries[0x8769] = {0x829A: IFDRational(1, 250)}
    return entries.tobytes()


def picture(channels: int, bits: int, color: str) -> Picture:
    kind = np.uint8 if bits == 8 else np.uint16
    samples = np.full((8, 8, channels), np.iinfo(kind).max // 2, kind)
    if channels in (2, 4):
        samples[..., -1] = np.iinfo(kind).max // 4 * 3
    metadata = ImageMetadata(
        icc_profile=make_profile("a", curve(1.0), None if channels < 3 else SRGB_PRIMARIES)
        if color == "profile"
        else None,
        color=COLORS[color] or (),
        exif=exif(),
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        dpi=(300, 300),
        text=(("parameters", "a tree"), ("Title", "b"), ("mine", "c")),
        iptc=b"\x1c\x02\x78\0\x07caption",
        geo=GEO,
        size=(8, 8),
    )
    return Picture(samples=samples, metadata=metadata)


def as_srgb(given: Picture) -> int:
    """The picture's red, as a program that manages colours shows it."""
    mode, value = (
        ("L", given.to_8_bit().samples[0, 0, 0]) if given.is_grey else ("RGB", given.to_8_bit().samples[0, 0, :3])
    )
    source = ImageCms.ImageCmsProfile(io.BytesIO(given.metadata.icc_profile or b""))
    image = Image.new(mode, (1, 1), int(value) if mode == "L" else tuple(map(int, value)))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return np.asarray(ImageCms.profileToProfile(image, source, srgb, outputMode="RGB"))[0, 0, 0]


def places(given: Picture, found: Picture, notes: str) -> Iterator[tuple[str, str]]:
    """(row of the table, what became of it), for what `given` has."""
    before, after = given.metadata, found.metadata
    if given.is_16_bit:
        yield "16 bits", "kept" if found.is_16_bit else "8 bits" if "16 bits a sample" in notes else "lost"
    if given.is_grey:
        yield "grey", "kept" if found.is_grey else "as RGB"
    if given.has_alpha:
        alpha = given.to_8_bit().samples[0, 0, -1]
        found_alpha = found.to_8_bit().samples[0, 0, -1] if found.has_alpha else 255
        yield "transparency", "kept" if found_alpha == alpha else "on or off" if "GIF" in notes else "lost"
    if before.icc_profile:
        is_srgb = not after.icc_profile and abs(int(found.samples[0, 0, 0]) - as_srgb(given)) <= 1
        yield "colour profile", "kept" if after.icc_profile else "as sRGB" if is_srgb else "lost"
    if before.color:
        row = "PQ and HLG" if before.color[0][1][1] == 16 else "colour without a profile"
        is_srgb = before.color[0][0] == b"gAMA" and found.samples[0, 0, 0] in (187, 188)
        is_srgb |= before.color[0][0] == b"cICP" and found.samples[0, 0, 0] in (127, 128)  # a grey is one in P3
        changed = "as a profile" if after.icc_profile else "as sRGB" if is_srgb else "lost"
        yield row, "kept" if after.color == before.color else changed
    yield from other_places(before, after, notes)


def other_places(before: ImageMetadata, after: ImageMetadata, notes: str) -> Iterator[tuple[str, str]]:
    named = {row: "named" if word in notes else "lost" for row, word in WORDS.items()}
    camera = b"Camera"
    if before.exif:
        yield "EXIF", "kept" if camera in (after.exif or b"") else named["EXIF"]
    if before.xmp:
        yield "XMP", "kept" if after.xmp == before.xmp else named["XMP"]
    if before.text:
        in_exif = "a tree".encode("utf-16-be") in (after.exif or b"") and "the text 'mine'" in notes
        yield "texts", "kept" if after.text == before.text else "in EXIF" if in_exif else named["texts"]
    if before.iptc:
        yield "IPTC", "kept" if after.iptc == before.iptc else named["IPTC"]
    if before.geo:
        yield "GeoTIFF", "kept" if after.geo == before.geo else named["GeoTIFF"]
    if before.dpi:
        yield "resolution", "kept" if after.dpi == pytest.approx(before.dpi, rel=1e-3) else named["resolution"]


Cells = dict[str, dict[str, set[str]]]
"""Row -> format of the output -> all that has become of it, over every input that has it."""


def inputs(folder: Path) -> Iterator[Picture]:
    """A picture of each kind out of a file of each format that can hold it."""
    for (source, suffix), channels, bits, color in itertools.product(
        SUFFIXES.items(), CHANNELS.values(), (8, 16), COLORS
    ):
        fits = (bits == 8 or source in DEEP) and (channels in (1, 3) or source not in FLAT)
        if fits and (color != "HDR" or source == "PNG"):
            write_image(folder / f"in{suffix}", picture(channels, bits, color), overwrite=True)
            yield read_image(folder / f"in{suffix}")


def refusals(given: Picture, path: Path) -> Iterator[tuple[str, str]]:
    half = Picture(samples=given.samples // 2)
    for row, wanted in (("transparency", half), ("PQ and HLG", given.without_alpha())):
        try:
            check_target(path, wanted, (8, 8))
        except ImageFileError:
            yield row, "refused"


def outcomes(given: Picture, path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[tuple[str, str]]:
    refused = dict(refusals(given, path))
    yield from refused.items()
    if "PQ and HLG" in refused:
        return
    caplog.clear()
    write_image(path, given, overwrite=True)
    notes = " ".join(record.message for record in caplog.records if record.levelno >= logging.WARNING)
    for row, what in places(given, read_image(path), notes):
        if row not in refused:
            yield row, what


def test_nothing_is_lost_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells: Cells = {row: {name: set() for name in SUFFIXES} for row in ROWS}
    for given, (name, suffix) in itertools.product(inputs(tmp_path), SUFFIXES.items()):
        for row, what in outcomes(given, tmp_path / f"out{suffix}", caplog):
            cells[row][name].add(what)
    lost = [(row, name) for row, formats in cells.items() for name, what in formats.items() if "lost" in what]
    assert lost == []
    lines = ["| | " + " | ".join(SUFFIXES) + " |", "|---" * (1 + len(SUFFIXES)) + "|"]
    lines += [
        f"| {row} | " + " | ".join(", ".join(sorted(cells[row][name])) for name in SUFFIXES) + " |" for row in cells
    ]
    found = "\n".join(lines)
    assert found in DOCS.read_text(encoding="utf-8"), f"put this table into docs/formats.md:\n{found}"
