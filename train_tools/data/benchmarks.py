"""The field's test sets in their original folders: which files belong together, checked by number and size."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dfosd_core.errors import ConfigError
from dfosd_core.image_files import is_image_name

SCALE = 4
SURPLUS_PX = 4
"""So many rows or columns an HR image may have more than four times its LR image; they are cut off."""
IMAGES = {"RealSR": 100, "DRealSR": 93, "DIV2K-val": 100, "RealSet65": 65}
"""Whole images of each set; of RealSR half by each camera."""
MARK = re.compile(r"_(HR|LR4|x1|x4)$")
"""What the names of a pair differ in."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image of a set: its name there, and its files. `lr` None: to be made; `hr` None: no reference."""

    name: str
    lr: Path | None
    hr: Path | None
    lr_size: tuple[int, int] | None = None
    """Width and height, HR's being SCALE times as large, where something has to be cut off; None: as they are."""


def realsr(source: Path) -> list[Item]:
    """RealSR(V3): Canon/Test/4 and Nikon/Test/4, each with 50 pairs *_HR.png and *_LR4.png."""
    items: list[Item] = []
    for camera in ("Canon", "Nikon"):
        folder = _inside(source, f"{camera}/Test/4", "the folder of RealSR(V3) with Canon/ and Nikon/")
        files = _images(folder)
        by_side = {side: [file for file in files if file.stem.endswith(side)] for side in ("_HR", "_LR4")}
        items += _pairs(f"RealSR's {camera}/Test/4", by_side["_LR4"], by_side["_HR"], IMAGES["RealSR"] // 2)
    return items


def drealsr(source: Path) -> list[Item]:
    """DRealSR: Test_x4 with 93 pairs in test_HR and test_LR."""
    folders = [_inside(source, f"test_{side}", "DRealSR's folder Test_x4", "Test_x4") for side in ("LR", "HR")]
    return _pairs("DRealSR's Test_x4", _images(folders[0]), _images(folders[1]), IMAGES["DRealSR"])


def div2k(source: Path) -> list[Item]:
    """DIV2K_valid_HR: 100 images; their LR images have to be made."""
    files = _images(_inside(source, "DIV2K_valid_HR", "DIV2K_valid_HR", is_optional=True))
    _check_count("DIV2K_valid_HR", len(files), IMAGES["DIV2K-val"])
    return [Item(name=file.stem, lr=None, hr=file, lr_size=_quarter(_size(file))) for file in files]


def realset65(source: Path) -> list[Item]:
    """RealSet65: 65 LR images without references."""
    files = _images(_inside(source, "RealSet65", "RealSet65", is_optional=True))
    _check_count("RealSet65", len(files), IMAGES["RealSet65"])
    if len({file.stem for file in files}) < len(files):
        raise ConfigError("Two images of RealSet65 have one name but for the ending. Unpack it anew.")
    return [Item(name=file.stem, lr=file, hr=None) for file in files]


READERS: dict[str, Callable[[Path], list[Item]]] = {
    "RealSR": realsr,
    "DRealSR": drealsr,
    "DIV2K-val": div2k,
    "RealSet65": realset65,
}


def _inside(source: Path, part: str, what: str, *between: str, is_optional: bool = False) -> Path:
    """`part` of `source` or of a folder between; where optional, `source` itself will do."""
    places = [source / part, *(source / name / part for name in between), *([source] if is_optional else [])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise ConfigError(f"Expected {what}, found no '{places[0]}'. Give the folder as it was unpacked.")
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_image_name(path))


def _pairs(what: str, lr: list[Path], hr: list[Path], count: int) -> list[Item]:
    names = [{MARK.sub("", file.stem): file for file in files} for files in (lr, hr)]
    if unpaired := sorted(names[0].keys() ^ names[1].keys()):
        raise ConfigError(
            f"{what} has no pair for '{unpaired[0]}' ({len(lr)} LR and {len(hr)} HR images). Unpack it anew."
        )
    _check_count(what, len(names[0]), count)
    return [_pair(what, name, names[0][name], names[1][name]) for name in sorted(names[0])]


def _check_count(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ConfigError(f"Expected {expected} images in {what}, found {found}. Unpack it anew, all of it.")


def _pair(what: str, name: str, lr: Path, hr: Path) -> Item:
    small, large = _size(lr), _size(hr)
    if small == large:
        raise ConfigError(
            f"In {what} LR and HR of '{name}' are both {small[0]}x{small[1]}: an early version of the set, whose LR "
            "images were enlarged. Take the version with LR images of a quarter of the size (RealSR: V3)."
        )
    size = (min(small[0], large[0] // SCALE), min(small[1], large[1] // SCALE))
    if any(a - b > 1 or c - SCALE * b > SURPLUS_PX for a, b, c in zip(small, size, large, strict=True)):
        raise ConfigError(
            f"In {what} the HR image of '{name}' is {large[0]}x{large[1]}, expected {SCALE} times its LR image, "
            f"{small[0]}x{small[1]}. Take the set for x{SCALE}."
        )
    is_exact = size == small and all(SCALE * b == c for b, c in zip(size, large, strict=True))
    return Item(name=name, lr=lr, hr=hr, lr_size=None if is_exact else size)


def _quarter(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // SCALE, size[1] // SCALE


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read as an image. Unpack the set anew.") from error
