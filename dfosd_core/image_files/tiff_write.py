"""Writing TIFF 6.0: Pillow has no 16-bit colour, and once it compresses no EXIF directory."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .carry import Carried
from .exif import entries_of
from .picture import Picture

_ROWS = 64
_DEFLATE, _HORIZONTAL = 8, 2
_STRIPS, _ENTRY = 273, 12
"""The tag of the strips' places; the bytes of a directory's entry."""


def write_tiff(file: BinaryIO, picture: Picture, carried: Carried, pointer: int | None = None) -> int:
    """Deflate over horizontal differences, in strips.

    `pointer`: where the page before it, which is in the file already, names the next one. Returns that place of this.
    """
    height, width, channels = picture.samples.shape
    kind = picture.samples.dtype.newbyteorder("<")
    strips: list[bytes] = []
    for start in range(0, height, _ROWS):
        strip = picture.samples[start : start + _ROWS]
        differences = np.diff(strip, axis=1, prepend=np.zeros_like(strip[:, :1])).astype(kind)
        strips.append(zlib.compress(differences.tobytes()))
    tags = _tiff_tags(carried)
    tags[256], tags[257], tags[258] = width, height, (kind.itemsize * 8,) * channels
    tags[259], tags[317], tags[262] = _DEFLATE, _HORIZONTAL, 1 if channels < 3 else 2
    tags[277], tags[278], tags[279] = channels, _ROWS, tuple(len(strip) for strip in strips)
    if channels in (2, 4):
        tags[338] = 2  # alpha, not multiplied in
    file.write(b"II*\0" + struct.pack("<I", 8) if file.tell() == 0 else b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(_directory(tags, start, [len(strip) for strip in strips]))
    file.writelines(strips)
    if pointer is not None:
        file.seek(pointer)
        file.write(struct.pack("<I", start))
        file.seek(0, io.SEEK_END)
    return start + 2 + _ENTRY * (len(tags) + 1)


def _directory(tags: ImageFileDirectory_v2, start: int, lengths: list[int]) -> bytes:
    """`tags` and the places of the strips behind it, for a directory at `start`. Older Pillows take one strip alone."""
    made = tags.tobytes(start + _ENTRY)  # its content lies behind one entry more
    end = 2 + _ENTRY * len(tags)
    entries = [made[i : i + _ENTRY] for i in range(2, end, _ENTRY)]
    behind = start + _ENTRY + len(made)
    table = behind + 4 * len(lengths) if len(lengths) > 1 else behind
    places = struct.pack(f"<{len(lengths)}I", *itertools.accumulate(lengths[:-1], initial=table))
    inside = struct.pack("<I", behind) if len(lengths) > 1 else places
    entries.append(struct.pack("<HHI", _STRIPS, TiffTags.LONG, len(lengths)) + inside)
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    return struct.pack("<H", len(entries)) + b"".join(entries) + made[end:] + (places if len(lengths) > 1 else b"")


def _tiff_tags(carried: Carried) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in entries_of(carried.exif or b"").items():
        tags[tag] = value
    for tag, kind, values in carried.geo:
        tags.tagtype[tag] = kind
        tags[tag] = values
    if carried.dpi:
        tags[282], tags[283], tags[296] = *carried.dpi, 2
    if carried.icc_profile:
        tags[34675] = carried.icc_profile
    if carried.xmp:
        tags[700] = carried.xmp
    if carried.iptc:
        tags.tagtype[33723] = TiffTags.UNDEFINED
        tags[33723] = carried.iptc
    return tags
