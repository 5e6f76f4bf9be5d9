"""The files of a set: its small and large images, which belong together by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.image_files import is_image_name

from .pictures import read_image

SIDES = (("LR", "HR"), ("test_LR", "test_HR"), ("lq", "gt"))
"""Folders of the small and the large images: ours, and the two ways in which StableSR's sets name them."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A degraded image (1, 3, H, W) in [0, 1], and how many times larger it is to become."""

    name: str
    x_lq: Tensor
    scale: int


@dataclass(frozen=True, kw_only=True)
class Pair(Sample):
    """With what it was made from, (1, 3, H, W) in [0, 1], `scale` times as large."""

    x_hr: Tensor


def pair_files(folder: Path, *, needs_hr: bool = False) -> tuple[dict[str, Path], dict[str, Path]]:
    """Small and large images by stem; there may be no large ones at all. Raises ConfigError unless they match."""
    sides = next((pair for pair in SIDES if (folder / pair[0]).is_dir()), SIDES[0])
    lr, hr = (by_stem(folder / side) if (folder / side).is_dir() else {} for side in sides)
    if not lr or ((hr or needs_hr) and lr.keys() != hr.keys()):
        alone, prepared = ("", "") if needs_hr else (", or LR/ alone", " or prepare_benchmark")
        raise ConfigError(
            f"Expected '{folder}' to hold LR/ and HR/ with the same file names{alone}, found {len(lr)} and {len(hr)} "
            f"files. Make one with `python -m train_tools.make_pairs PHOTOS {folder}`{prepared}."
        )
    return lr, hr


def by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder in order. Raises ConfigError for two of one stem."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if is_image_name(p)):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise ConfigError(f"'{folder}' holds '{other.name}' and '{path.name}'. Keep one of them.")
    return found


def find_pairs(folder: Path, count: int | None = None) -> list[str]:
    """File names of the small images, at most `count`, evenly chosen. Raises ConfigError unless all have large ones."""
    lr, _ = pair_files(folder, needs_hr=True)
    return evenly([path.name for path in lr.values()], count or len(lr))


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, the first and the last among them, at even distances."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round()]


def read_pair(folder: Path, name: str) -> Pair:
    """Read one pair of those that `find_pairs` names. Raises ConfigError where the sizes do not go together."""
    lr, hr = pair_files(folder, needs_hr=True)
    stem = Path(name).stem
    return pair_of(name, lr[stem], hr[stem])


def pair_of(name: str, lq: Path, hr: Path) -> Pair:
    """The two files as a pair. Raises ConfigError where the sizes do not go together."""
    x_lq, x_hr = read_image(lq), read_image(hr)
    small, large = x_lq.shape[-2:], x_hr.shape[-2:]
    scale = max(1, round(large[0] / small[0]))
    if any(scale * a != b for a, b in zip(small, large, strict=True)):
        raise ConfigError(
            f"'{hr}' is {large[1]}x{large[0]}, expected {scale} times the size of the one in {lq.parent.name}/, "
            f"{small[1]}x{small[0]}. Crop HR, or make the pairs again with train_tools.make_pairs."
        )
    return Pair(name=name, x_lq=x_lq, x_hr=x_hr, scale=scale)
