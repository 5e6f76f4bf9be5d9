"""The set that `prepare_data` leaves: SET/index.jsonl, one line a crop, and the crops as lossless WebP files.

Lossless because training is to restore the target's pixels, and JPEG at quality 95 still moves them by 0.9 of 255 in
the mean. WebP because a crop of 640 pixels takes 302 kB (PNG: 395) and decodes faster.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfosd_core.errors import ConfigError

from .photos import random_window
from .texture import Pixels, textured_crop
from .unreadable import FilesOfASet

INDEX = "index.jsonl"
SOURCES = "sources.tsv"
"""Which photographs the crops are of: columns file, sha256, crops, weight."""
CROPS = "crops"


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One crop of a prepared set."""

    file: str
    """Where it is, from the set's folder on."""
    source: str
    """The photograph it is of, from the prepared folder on."""
    scale: float
    """By how much the photograph was reduced before."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in the reduced photograph."""
    sharpness: float
    """See `prepare_crops.sharpness`."""
    sha256: str
    """Of the crop's pixels (H, W, 3)."""
    texture: float = 0.0
    """See `texture.texture`."""
    is_flat: bool = False
    """One of the few without texture."""
    weight: float = 1.0
    """How often it is drawn, compared with others."""

    @classmethod
    def from_plain(cls, values: Any) -> IndexRow:
        """The inverse of `asdict`, after JSON. Raises ValueError, KeyError or TypeError for anything else."""
        left, top, right, bottom = (int(edge) for edge in values["box"])
        return cls(**(values | {"box": (left, top, right, bottom)}))


class PreparedSet(FilesOfASet):
    """Crops of `size` from the files of a prepared set, each file by its weight; smaller files are left out.

    A file that was chosen for its texture gives crops with texture, a flat one any.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        rows = read_index(folder)
        self.rows = [row for row in rows if min(row.box[2] - row.box[0], row.box[3] - row.box[1]) >= size]
        super().__init__(folder, len(self.rows))
        self._refuse_none()

    def cut(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop (size, size, 3). Raises ConfigError for too many files that are gone or damaged."""
        while True:
            row = self._draw(rng)
            path = self.folder / row.file
            if str(path) in self.unreadable.reasons:
                self.unreadable.refuse(str(self.folder / each.file) for each in self.rows)
                continue
            try:
                with Image.open(path) as opened:
                    pixels = np.asarray(opened.convert("RGB"))
            except (OSError, ValueError, SyntaxError):
                reason = f"'{path}' is missing or damaged. Run prepare_data again to mend the set."
                self.unreadable.add(str(path), reason)
                continue
            if row.is_flat:
                return random_window(pixels, self.size, rng)
            return textured_crop(partial(random_window, pixels, self.size, rng))

    def _draw(self, rng: np.random.Generator) -> IndexRow:
        """A row, in proportion to its weight."""
        while True:
            row = self.rows[int(rng.integers(len(self.rows)))]
            if rng.random() * self.heaviest < row.weight:
                return row

    def photographs(self) -> dict[str, Path]:
        """The prepared photographs, each with its first crop."""
        return {row.source: self.folder / row.file for row in reversed(self.rows)}

    def leave_out(self, names: Collection[str]) -> None:
        """Take no crop of these photographs. Raises ConfigError where no other is left."""
        self.rows = [row for row in self.rows if row.source not in names]
        self._refuse_none()

    def _refuse_none(self) -> None:
        self.heaviest = max((row.weight for row in self.rows), default=1.0)
        if not self.rows:
            raise ConfigError(
                f"'{self.folder}' has no crop of {self.size} pixels or more. Set data.crop lower, or prepare it with "
                "--size."
            )


def is_prepared(folder: Path) -> bool:
    """Whether `folder` is a prepared set and not just photographs."""
    return (folder / INDEX).is_file()


def read_index(folder: Path) -> list[IndexRow]:
    """All rows. Raises ConfigError with the line's number for one that is no row."""
    rows: list[IndexRow] = []
    with (folder / INDEX).open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(IndexRow.from_plain(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"'{folder / INDEX}', line {number}: expected a line of prepare_data. Run it again to mend the set."
                ) from error
    return rows


def read_sources(folder: Path) -> dict[str, str]:
    """The photographs that a set has crops of: name -> SHA-256. Raises ConfigError for a set without that table."""
    try:
        lines = (folder / SOURCES).read_text(encoding="utf-8", errors="surrogateescape").split("\n")[1:-1]
        return {name: digest for name, digest, *_ in (line.split("\t") for line in lines)}
    except (OSError, ValueError) as error:
        raise ConfigError(f"'{folder}' has no '{SOURCES}' as prepare_data writes it. Run it again.") from error
