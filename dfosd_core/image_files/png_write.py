"""Writing PNG (ISO 15948): Pillow encodes 8 bits; it has no 16-bit colour, and writes not all that is beside it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .carry import Carried
from .iptc import to_block
from .picture import Picture
from .pil import to_pil
from .png_read import SIGNATURE, chunks_of

_ROWS = 64
_PNG_COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
_HEAD = 33
"""Bytes of the signature and the header chunk."""


def write_png(file: BinaryIO, picture: Picture, carried: Carried) -> None:
    """With `carried` as chunks before the samples."""
    chunks = [_chunk(kind, content) for kind, content in _extras(carried)]
    if picture.is_16_bit:
        _write_16_bit(file, picture, b"".join(chunks))
        return
    image, encoded = to_pil(picture), io.BytesIO()
    image.info.clear()
    image.save(encoded, "PNG")
    written = encoded.getbuffer()
    file.writelines((written[:_HEAD], *chunks, written[_HEAD:]))


def write_animated_png(file: BinaryIO, picture: Picture, carried: Carried) -> None:
    """As an APNG (PNG, third edition): each frame whole."""
    sequence = picture.sequence
    assert sequence is not None
    number = 0
    for index, frame in enumerate((picture, *sequence.following)):
        encoded = io.BytesIO()
        write_png(encoded, frame, carried if index == 0 else Carried())
        for kind, content, whole in chunks_of(encoded.getvalue()):
            if kind == b"IDAT":
                file.write(whole if index == 0 else _chunk(b"fdAT", struct.pack(">I", number) + content))
                number += index > 0
            elif index == 0 and kind != b"IEND":
                file.write((SIGNATURE if kind == b"IHDR" else b"") + whole)
            if kind == b"IHDR":
                if index == 0:
                    file.write(_chunk(b"acTL", struct.pack(">II", len(sequence.durations), sequence.plays)))
                file.write(_chunk(b"fcTL", _frame_control(number, frame, sequence.durations[index])))
                number += 1
    file.write(_chunk(b"IEND", b""))


def _frame_control(number: int, frame: Picture, milliseconds: float) -> bytes:
    """Shown for so long, all over the one before it."""
    per_second = 1000 if milliseconds < 65000 else 100
    duration = min(round(milliseconds * per_second / 1000), 65535)
    height, width = frame.size
    return struct.pack(">5I2H2B", number, width, height, 0, 0, duration, per_second, 0, 0)


def _write_16_bit(file: BinaryIO, picture: Picture, extras: bytes) -> None:
    height, width, channels = picture.samples.shape
    file.write(SIGNATURE)
    file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPE[channels], 0, 0, 0)))
    file.write(extras)
    deflate = zlib.compressobj(6)
    file.writelines(
        _chunk(b"IDAT", deflate.compress(rows)) for rows in _filtered(picture.samples.astype(">u2"), channels * 2)
    )
    file.write(_chunk(b"IDAT", deflate.flush()))
    file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _extras(carried: Carried) -> Iterator[tuple[bytes, bytes]]:
    yield from carried.color
    if carried.icc_profile:
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(carried.icc_profile)
    if carried.dpi:
        across, down = (round(dpi / 0.0254) for dpi in carried.dpi)
        yield b"pHYs", struct.pack(">IIB", across, down, 1)
    if carried.exif:
        yield b"eXIf", carried.exif.removeprefix(b"Exif\0\0")
    for key, value in carried.text:
        yield _text(key, value)
    if carried.xmp:
        yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + carried.xmp
    if carried.iptc:  # in the form that ImageMagick and ExifTool have for it
        block = to_block(carried.iptc)
        yield b"tEXt", b"Raw profile type iptc\0" + f"\niptc\n{len(block):8}\n{block.hex()}\n".encode()


def _text(key: str, value: str) -> tuple[bytes, bytes]:
    """Not compressed: many programs refuse to unpack more than a million bytes, and workflows are longer."""
    keyword = key.encode("latin-1", "replace")[:79] + b"\0"
    try:
        return b"tEXt", keyword + value.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", keyword + b"\0\0\0\0" + value.encode("utf-8", "replace")


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
