"""One source file of `prepare_data`: is it a photograph, at which size is it sharp, and which crops of it teach."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dfosd_core.errors import ImageFileError
from dfosd_core.files import write_whole
from dfosd_core.image_files.read import read_image

from .photos import reduce_pixels
from .prepared_set import CROPS, IndexRow
from .texture import TEXTURED, Pixels, sharpness, texture

FLAT = 3.0
"""Deviation of the grey levels (of 255) below which there is nothing at all in a crop."""
SHARP = 0.45
"""Smallest `sharpness`: 18 photographs had 0.42 to 0.97, and under a Gaussian blur of sigma 1 they had 0.33 to 0.48."""
SHARP_SHARE = 0.25
"""A photograph is taken at the largest size at which this share of its crops teaches; the rest may be background."""


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What decides which crops there are."""

    size: int = 640
    """Edge of a crop: larger than the training's, which cuts at random from it."""
    smallest: int = 512
    """Shorter photographs are dropped; between the two a crop is as large as the photograph."""
    flat: float = 0.1
    """Share of crops without texture, so that skies and walls stay what they are; below 1."""

    def flat_for(self, textured: float) -> float:
        """How many flat crops belong to so many with texture."""
        return textured * self.flat / (1 - self.flat)


@dataclass(frozen=True, kw_only=True)
class SourceResult:
    """What became of a source file."""

    source: str
    """Its path from the folder on."""
    stamp: tuple[int, int]
    """Bytes and time of its last change (ns): whether it is still the same file."""
    sha256: str = ""
    """Of its bytes."""
    pixels: int = 0
    likeness: str = ""
    """See `likeness`; hexadecimal."""
    dropped: str = ""
    """Why there is no crop of it: `kind: detail`. Empty if there are some."""
    rows: list[IndexRow] = field(default_factory=list[IndexRow])

    @classmethod
    def from_plain(cls, values: Any) -> SourceResult:
        """The inverse of `asdict`, after JSON. Raises ValueError, KeyError or TypeError for anything else."""
        rows = [IndexRow.from_plain(row) for row in values["rows"]]
        return cls(**(values | {"stamp": tuple(values["stamp"]), "rows": rows}))


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file; (0, 0) if it is gone or out of reach."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def prepare_source(path: Path, source: str, out: Path, settings: CropSettings) -> SourceResult:
    """Write the crops of the file at `path`, called `source`, into out/crops. The file itself is only read.

    It may be more flat ones than are kept in the end: which are is decided when all files are known.
    """
    before = stamp(path)
    try:
        picture = read_image(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (ImageFileError, OSError) as error:
        reason = str(error).replace(f"'{path}'", "it")
        return SourceResult(source=source, stamp=before, dropped=f"unreadable: {reason}")
    height, width = picture.size
    facts: dict[str, Any] = {"source": source, "stamp": before, "sha256": digest, "pixels": height * width}
    if min(height, width) < settings.smallest:
        return SourceResult(**facts, dropped=f"tiny: {width}x{height}")
    if picture.has_transparency:
        return SourceResult(**facts, dropped="transparent: parts of it can be seen through")
    pixels = np.ascontiguousarray(picture.without_alpha().with_three_colors().to_8_bit().samples, dtype=np.uint8)
    facts["likeness"] = f"{likeness(pixels):032x}"
    crops, dropped = _choose_crops(pixels, settings, digest)
    rows = [_write(out, source, digest, number, crop) for number, crop in enumerate(crops)]
    return SourceResult(**facts, dropped=dropped, rows=rows)


def likeness(pixels: Pixels) -> int:
    """128 bits that resizing or compression hardly change: is it brighter to the right, and downwards, on 8x8 cells?"""
    grey = Image.fromarray(pixels).convert("L")
    right = np.diff(np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16), axis=1) > 1
    down = np.diff(np.asarray(grey.resize((8, 9), Image.Resampling.BOX), dtype=np.int16), axis=0) > 1
    return int.from_bytes(np.packbits(np.concatenate((right.ravel(), down.ravel()))).tobytes(), "big")


class Crop(NamedTuple):
    """A part of the photograph at one of its sizes."""

    pixels: Pixels
    box: tuple[int, int, int, int]
    scale: float
    texture: float
    sharpness: float
    is_empty: bool
    """Nothing in it, not even a gradient."""

    is_flat: bool = False
    """Chosen for having no texture."""

    def teaches(self, least: float = TEXTURED) -> bool:
        """It has texture, and that is sharp."""
        return self.texture >= least and self.sharpness >= SHARP


def _choose_crops(pixels: Pixels, settings: CropSettings, digest: str) -> tuple[list[Crop], str]:
    """The crops that teach, at the largest size at which enough do, and some flat ones; or why there are none."""
    best: list[Crop] = []
    scale, is_empty, fallback = 1.0, True, list[Crop]()
    while min(pixels.shape[:2]) * scale >= settings.smallest:
        crops = all_crops(pixels, scale, settings.size)
        is_empty = is_empty and all(crop.is_empty for crop in crops)
        good = [crop for crop in crops if crop.teaches()]
        chosen = good + _some_flat(crops, math.ceil(2 * settings.flat_for(len(good))), digest)
        if len(good) >= SHARP_SHARE * len(crops):
            return chosen, ""
        best = best or (chosen if good else [])
        fallback = fallback or _richest(crops)
        scale /= 2
    best = best or fallback
    return best, "" if best else "flat: nothing in it" if is_empty else "blurred: no fine texture at any size"


def _richest(crops: list[Crop]) -> list[Crop]:
    """The one with most texture if it has half of what is asked for: a face in soft light, a bird before a wall."""
    half = [crop for crop in crops if crop.teaches(TEXTURED / 2)]
    return [max(half, key=lambda crop: crop.texture)] if half else []


def all_crops(pixels: Pixels, scale: float, size: int) -> list[Crop]:
    """Every crop of a photograph that was reduced by `scale`."""
    reduced = reduce_pixels(pixels, scale)
    grey = np.asarray(Image.fromarray(reduced).convert("L"), dtype=np.float32)
    found: list[Crop] = []
    for box in _boxes(grey.shape[0], grey.shape[1], size):
        left, top, right, bottom = box
        part = grey[top:bottom, left:right]
        facts = round(texture(part), 3), round(sharpness(part), 3), bool(part.std() < FLAT)
        found.append(Crop(reduced[top:bottom, left:right], box, scale, *facts))
    return found


def _some_flat(crops: list[Crop], count: int, digest: str) -> list[Crop]:
    """At most `count` of those without texture, at random but always the same."""
    flat = [crop for crop in crops if crop.texture < TEXTURED]
    flat.sort(key=lambda crop: hashlib.sha256(f"{digest} {crop.box}".encode()).digest())
    return [crop._replace(is_flat=True) for crop in flat[:count]]


def _boxes(height: int, width: int, size: int) -> list[tuple[int, int, int, int]]:
    """As many squares of `size` as fit beside each other, evenly spread."""

    def starts(edge: int) -> list[int]:
        count, free = max(1, edge // size), max(0, edge - size)
        return [free // 2] if count == 1 else [round(free * i / (count - 1)) for i in range(count)]

    down, across = min(size, height), min(size, width)
    return [(left, top, left + across, top + down) for top in starts(height) for left in starts(width)]


def _write(out: Path, source: str, digest: str, number: int, crop: Crop) -> IndexRow:
    # Named after name and content of the source: a changed file's crops never overwrite those the index still lists.
    key = hashlib.sha256(f"{source}\0{digest}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    file = f"{CROPS}/{key}-{number:03}.webp"
    with write_whole(out / file) as target:
        # method and quality are the encoder's effort: a third of the default's time, 1 % larger.
        Image.fromarray(crop.pixels).save(target, "WEBP", lossless=True, method=1, quality=30)
    return IndexRow(
        file=file,
        source=source,
        scale=crop.scale,
        box=crop.box,
        sharpness=crop.sharpness,
        sha256=hashlib.sha256(crop.pixels.tobytes()).hexdigest(),
        texture=crop.texture,
        is_flat=crop.is_flat,
    )
