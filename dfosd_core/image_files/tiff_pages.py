"""The directories of a TIFF 6.0 file: which of them are pictures, and what is said of each."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
STRIPS, CHANNELS, ROWS_PER_STRIP, STRIP_BYTES, PLANES, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_LENGTH, TILES, TILE_BYTES, EXTRA, FORMAT, DNG = 322, 323, 324, 325, 338, 339, 50706
GREY_INVERTED, GREY, RGB, MASK = 0, 1, 2, 4

_OLD_SUBFILE, _JPEG_THUMBNAIL = 255, 513
_REDUCED_OR_MASK = 1 | 4
_MOST = 10000


@dataclass(frozen=True)
class Page:
    """One directory of the file. `number`: its place in the file."""

    number: int
    tags: TiffImagePlugin.ImageFileDirectory_v2

    def one(self, tag: int, default: int) -> int:
        """A tag's whole number, or the first of several."""
        value = self.tags.get(tag, default)
        value = value[0] if isinstance(value, tuple) and value else value
        return value if isinstance(value, int) else default

    def all(self, tag: int) -> tuple[Any, ...]:
        """A tag's values; none where it is not there."""
        value = self.tags.get(tag, ())
        return value if isinstance(value, tuple) else (value,)

    @property
    def is_picture(self) -> bool:
        """No thumbnail, no level of a pyramid, no mask."""
        beside = self.one(SUBFILE, 0) & _REDUCED_OR_MASK or self.one(_OLD_SUBFILE, 1) == 2
        is_thumbnail = self.number > 0 and _JPEG_THUMBNAIL in self.tags
        return not beside and not is_thumbnail and self.one(PHOTOMETRIC, 1) != MASK

    def exif(self, data: bytes) -> Image.Exif:
        """The same directory as EXIF, with those that it points to. Raises what Pillow raises for damaged ones."""
        exif = Image.Exif()
        exif.endian, exif.bigtiff = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
        exif.load_from_fp(io.BytesIO(data), self.tags.offset)
        return exif


def pages_of(data: bytes) -> list[Page]:
    """At least one, in the file's order. Raises ValueError and what Pillow raises for a damaged file."""
    file, head = io.BytesIO(data), data[:16] if b"+" in data[2:4] else data[:8]
    pages: list[Page] = []
    place, seen = TiffImagePlugin.ImageFileDirectory_v2(head).next, set[int]()
    while place and place not in seen and len(pages) < _MOST:
        seen.add(place)
        file.seek(place)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        tags.load(file)
        if len(tags):
            pages.append(Page(len(pages), tags))
        place = tags.next
    if not pages:
        raise ValueError("it has no directory")
    return pages
