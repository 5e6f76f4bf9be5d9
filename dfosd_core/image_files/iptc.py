"""IPTC's entries (IIM): captions and keywords, inside Photoshop's blocks in most files."""

from __future__ import annotations

import struct

_KIND = 0x0404


def from_blocks(blocks: bytes) -> bytes | None:
    """The entries in a row of Photoshop's blocks, which may have "Photoshop 3.0" before it; or plain entries."""
    blocks = blocks.removeprefix(b"Photoshop 3.0\0")
    if blocks[:1] == b"\x1c":
        return blocks
    place = 0
    while blocks[place : place + 4] == b"8BIM" and place + 7 <= len(blocks):
        (kind,) = struct.unpack_from(">H", blocks, place + 4)
        name = blocks[place + 6] + 1
        start = place + 6 + name + name % 2
        if start + 4 > len(blocks):
            return None
        (length,) = struct.unpack_from(">I", blocks, start)
        if kind == _KIND:
            return blocks[start + 4 : start + 4 + length] or None
        place = start + 4 + length + length % 2
    return None


def to_block(entries: bytes) -> bytes:
    """As one of Photoshop's blocks."""
    return b"8BIM" + struct.pack(">HHI", _KIND, 0, len(entries)) + entries + b"\0" * (len(entries) % 2)
