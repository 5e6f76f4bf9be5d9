"""Samples of 8 and 16 bits out of a TIFF: grey or RGB in any number of channels, interleaved or in planes.

Pillow knows few combinations of bits and channels, and has no 16-bit colour. Its decoders are given each row as a row
of bytes, under a directory of our own, and the rows are taken apart here.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from . import tiff_pages as tag
from .picture import Samples
from .tiff_pages import Page

_COMPRESSIONS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Those that do not care what the bytes are: none, LZW, Deflate, PackBits, LZMA, Zstandard."""
_SHORT = (tag.BITS, tag.COMPRESSION, tag.PHOTOMETRIC, tag.FILL_ORDER, tag.CHANNELS, tag.PLANES)
_PREMULTIPLIED, _STRAIGHT = 1, 2


def is_plain(page: Page) -> bool:
    """Whether `read_samples` can read it."""
    is_light = page.one(tag.PHOTOMETRIC, 1) in (tag.GREY_INVERTED, tag.GREY, tag.RGB)
    return is_light and page.one(tag.BITS, 1) in (8, 16) and page.one(tag.COMPRESSION, 1) in _COMPRESSIONS


def read_samples(data: bytes, page: Page) -> tuple[Samples, list[str]]:
    """(H, W, C) as stored: grey or RGB, and the channel that is said to be opacity. Other channels are left out, and
    named. Raises what Pillow raises for a damaged file."""
    channels = _channels(data, page, page.one(tag.BITS, 1) // 8)
    lights = 3 if page.one(tag.PHOTOMETRIC, 1) == tag.RGB else 1
    if channels.shape[2] < lights:
        raise ValueError(f"it has {channels.shape[2]} channels, and should have {lights}")
    light, top = channels[..., :lights], np.iinfo(channels.dtype).max
    if page.one(tag.PHOTOMETRIC, 1) == tag.GREY_INVERTED:
        light = top - light
    more = channels.shape[2] - lights
    kinds = (*page.all(tag.EXTRA), *(0,) * more)[:more]
    alpha = next((i for i, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _STRAIGHT)), None)
    others = more - (alpha is not None)
    lost = [f"{others} more channel{'s' if others > 1 else ''}"] if others else []
    if alpha is None:
        return light, lost
    opacity = channels[..., lights + alpha : lights + alpha + 1]
    if kinds[alpha] == _PREMULTIPLIED:
        divisor = np.maximum(opacity, 1).astype(np.uint32)
        light = np.minimum((light * np.uint32(top) + divisor // 2) // divisor, top).astype(channels.dtype)
    return np.concatenate([light, opacity], axis=2), lost


def _channels(data: bytes, page: Page, sample_bytes: int) -> NDArray[Any]:
    """(H, W, C) as stored, in the machine's byte order."""
    width, length, channels = page.one(tag.WIDTH, 0), page.one(tag.LENGTH, 0), page.one(tag.CHANNELS, 1)
    planes = channels if page.one(tag.PLANES, 1) == 2 else 1
    together = channels // planes
    tile = page.one(tag.TILE_WIDTH, 0) if tag.TILES in page.tags else 0
    stored_width = math.ceil(width / tile) * tile if tile else width
    kind = np.dtype(f"{'<' if data[:2] == b'II' else '>'}u{sample_bytes}")
    pixel = together * sample_bytes
    parts: list[NDArray[Any]] = []
    for plane in range(planes):
        rows = _rows_of_bytes(data, _directory(page, plane, planes, stored_width * pixel, pixel))
        values = rows.view(kind).reshape(length, stored_width, together).astype(kind.newbyteorder("="))
        if page.one(tag.PREDICTOR, 1) == 2:
            for start in range(0, stored_width, tile or stored_width):
                part = values[:, start : start + (tile or stored_width)]
                np.cumsum(part, axis=1, dtype=values.dtype, out=part)
        parts.append(values[:, :width])
    return parts[0] if planes == 1 else np.concatenate(parts, axis=2)


def _directory(page: Page, plane: int, planes: int, row: int, pixel: int) -> dict[int, Sequence[int]]:
    """Of grey of 8 bits, one plane of `page`, rows of `row` bytes."""
    entries: dict[int, Sequence[int]] = {tag.WIDTH: (row,), tag.LENGTH: (page.one(tag.LENGTH, 0),)}
    entries |= {tag.BITS: (8,), tag.PHOTOMETRIC: (tag.GREY,), tag.CHANNELS: (1,), tag.PLANES: (1,)}
    for same in (tag.COMPRESSION, tag.FILL_ORDER, tag.ROWS_PER_STRIP, tag.TILE_LENGTH):
        if same in page.tags:
            entries[same] = (page.one(same, 1),)
    if tag.TILES in page.tags:
        entries[tag.TILE_WIDTH] = (page.one(tag.TILE_WIDTH, 0) * pixel,)
    for pieces_tag in (tag.STRIPS, tag.STRIP_BYTES, tag.TILES, tag.TILE_BYTES):
        pieces = page.all(pieces_tag)
        share = len(pieces) // planes
        if pieces:
            entries[pieces_tag] = pieces[plane * share : (plane + 1) * share]
    return entries


def _rows_of_bytes(data: bytes, directory: Mapping[int, Sequence[int]]) -> NDArray[np.uint8]:
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(data, directory)))
    return np.array(image).reshape(directory[tag.LENGTH][0], directory[tag.WIDTH][0])


def _with_directory(data: bytes, entries: Mapping[int, Sequence[int]]) -> bytes:
    """The file's bytes, with a directory at the end that takes all others' place."""
    order = "<" if data[:2] == b"II" else ">"
    data += b"\0" * (len(data) % 2)
    table, far = b"", b""
    for name, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if name in _SHORT:
            packed = struct.pack(order + "HH", values[0], 0)
        elif len(values) > 1:
            packed, far = struct.pack(order + "I", len(data) + len(far)), far + packed
        table += struct.pack(order + "HHI", name, 3 if name in _SHORT else 4, len(values)) + packed
    head = data[:2] + struct.pack(order + "HI", 42, len(data) + len(far))
    return b"".join((head, data[8:], far, struct.pack(order + "H", len(entries)), table, b"\0\0\0\0"))
