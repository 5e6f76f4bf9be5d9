"""PNG files chunk by chunk, from first principles."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def chunk(kind: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    """One chunk; with `checksum` in place of the right one."""
    body = kind + content
    return (
        struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body) if checksum is None else checksum)
    )


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """The PNG with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def png(image: Image.Image, *chunks: bytes) -> bytes:
    """An image as Pillow writes it, with more chunks."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return with_chunks(file.getvalue(), *chunks)


def chunks_of(data: bytes) -> dict[bytes, bytes]:
    """Contents by name; of several of one name the last."""
    found: dict[bytes, bytes] = {}
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found[data[place + 4 : place + 8]] = data[place + 8 : place + 8 + length]
        place += 12 + length
    return found
