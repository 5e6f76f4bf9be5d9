"""One source file of `prepare_data`: is it a photograph, at which size is it sharp, and which crops of it teach."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dfosd_core.errors import ImageFileError
from dfosd_core.files import write_whole
from dfosd_core.image_files.read import read_image

from .photos import FLAT, Pixels, reduce_pixels
from .prepared_set import CROPS, IndexRow

Grey = NDArray[np.floating[Any]]

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


def prepare_source(folder: Path, source: str, out: Path, settings: CropSettings) -> SourceResult:
    """Write the crops of one file into out/crops. The file itself is only read."""
    path, before = folder / source, stamp(folder / source)
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
    crops, dropped = _choose_crops(pixels, settings)
    rows = [_write(out, source, digest, number, crop) for number, crop in enumerate(crops)]
    return SourceResult(**facts, dropped=dropped, rows=rows)


def likeness(pixels: Pixels) -> int:
    """128 bits that resizing or compression hardly change: is it brighter to the right, and downwards, on 8x8 cells?"""
    grey = Image.fromarray(pixels).convert("L")
    right = np.diff(np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16), axis=1) > 1
    down = np.diff(np.asarray(grey.resize((8, 9), Image.Resampling.BOX), dtype=np.int16), axis=0) > 1
    return int.from_bytes(np.packbits(np.concatenate((right.ravel(), down.ravel()))).tobytes(), "big")


def sharpness(grey: Grey) -> float:
    """The finest octave's contrast over the next one's: up to 1 for a sharp photograph, whatever its contrast."""
    fine, half = _octave(grey)
    coarse, _ = _octave(half)
    # Below a level or two of 255 there is nothing but rounding, which is always fine.
    return float(fine.std() / max(float(coarse.std()), 2.0))


def _octave(grey: Grey) -> tuple[Grey, Grey]:
    """What a light blur ([1, 2, 1] / 4 both ways) takes away, and the picture halved."""
    lines = (grey[:-2] + 2 * grey[1:-1] + grey[2:]) / 4
    blurred = (lines[:, :-2] + 2 * lines[:, 1:-1] + lines[:, 2:]) / 4
    height, width = (edge // 2 for edge in grey.shape)
    half = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return grey[1:-1, 1:-1] - blurred, half


Crop = tuple[Pixels, tuple[int, int, int, int], float, float]
"""Pixels, box, scale, sharpness."""


def _choose_crops(pixels: Pixels, settings: CropSettings) -> tuple[list[Crop], str]:
    """The crops that teach, at the largest size at which enough do; or why there are none."""
    best: list[Crop] = []
    scale, flat_only = 1.0, True
    while min(pixels.shape[:2]) * scale >= settings.smallest:
        reduced = reduce_pixels(pixels, scale)
        grey = np.asarray(Image.fromarray(reduced).convert("L"), dtype=np.float32)
        boxes = _boxes(grey.shape[0], grey.shape[1], settings.size)
        good: list[Crop] = []
        for left, top, right, bottom in boxes:
            part = grey[top:bottom, left:right]
            if part.std() < FLAT:
                continue
            flat_only, sharp = False, sharpness(part)
            if sharp >= SHARP:
                good.append((reduced[top:bottom, left:right], (left, top, right, bottom), scale, round(sharp, 3)))
        best = best or good
        if len(good) >= SHARP_SHARE * len(boxes):
            return good, ""
        scale /= 2
    return best, "" if best else "flat: nothing in it" if flat_only else "blurred: at every size"


def _boxes(height: int, width: int, size: int) -> list[tuple[int, int, int, int]]:
    """As many squares of `size` as fit beside each other, evenly spread."""

    def starts(edge: int) -> list[int]:
        count, free = max(1, edge // size), max(0, edge - size)
        return [free // 2] if count == 1 else [round(free * i / (count - 1)) for i in range(count)]

    down, across = min(size, height), min(size, width)
    return [(left, top, left + across, top + down) for top in starts(height) for left in starts(width)]


def _write(out: Path, source: str, digest: str, number: int, crop: Crop) -> IndexRow:
    pixels, box, scale, sharp = crop
    # Named after name and content of the source: a changed file's crops never overwrite those the index still lists.
    key = hashlib.sha256(f"{source}\0{digest}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    file = f"{CROPS}/{key}-{number:03}.webp"
    with write_whole(out / file) as target:
        # method and quality are the encoder's effort: a third of the default's time, 1 % larger.
        Image.fromarray(pixels).save(target, "WEBP", lossless=True, method=1, quality=30)
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return IndexRow(file=file, source=source, scale=scale, box=box, sharpness=sharp, sha256=sha256)
