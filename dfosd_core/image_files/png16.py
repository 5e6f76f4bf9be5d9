"""Writing PNG with 16-bit colour (ISO 15948), which Pillow cannot."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

from .metadata import ImageMetadata
from .picture import Picture

_ROWS = 64
_PNG_COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}


def write_png16(file: BinaryIO, picture: Picture, info: PngInfo) -> None:
    """`info`: the text entries."""
    height, width, channels = picture.samples.shape
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPE[channels], 0, 0, 0))
    for kind, content in (*_png_extras(picture.metadata), *((entry[0], entry[1]) for entry in info.chunks)):
        _chunk(file, kind, content)
    deflate = zlib.compressobj(6)
    for rows in _filtered(picture.samples.astype(">u2"), channels * 2):
        _chunk(file, b"IDAT", deflate.compress(rows))
    _chunk(file, b"IDAT", deflate.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content)
    file.write(struct.pack(">I", zlib.crc32(kind + content)))


def _png_extras(metadata: ImageMetadata) -> Iterator[tuple[bytes, bytes]]:
    if metadata.icc_profile:
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile)
    if metadata.dpi:
        across, down = (round(dpi / 0.0254) for dpi in metadata.dpi)
        yield b"pHYs", struct.pack(">IIB", across, down, 1)
    if metadata.exif:
        yield b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")


def _filtered(samples: NDArray[np.generic], pixel_bytes: int) -> Iterator[bytes]:
    """Scanlines behind their filter bytes: of Sub, Up and Paeth the one with the least sum of differences."""
    height = samples.shape[0]
    lines = samples.view(np.uint8).reshape(height, -1)
    padded = np.zeros((_ROWS + 1, lines.shape[1] + pixel_bytes), np.uint8)  # a row above, a pixel to the left
    for start in range(0, height, _ROWS):
        block = lines[start : start + _ROWS]
        rows = len(block)
        padded[1 : rows + 1, pixel_bytes:] = block
        left, above = padded[1 : rows + 1, :-pixel_bytes], padded[:rows, pixel_bytes:]
        corner = padded[:rows, :-pixel_bytes]
        tried = np.stack([block - left, block - above, block - _paeth(left, above, corner)])
        sums = np.minimum(tried, 256 - tried.astype(np.int16)).sum(axis=2, dtype=np.int64)
        best = sums.argmin(axis=0)
        kinds = np.array([1, 2, 4], np.uint8)[best][:, None]
        yield np.concatenate([kinds, tried[best, np.arange(rows)]], axis=1).tobytes()
        padded[0] = padded[rows]


def _paeth(left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, corner))
