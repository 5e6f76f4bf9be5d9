"""PNG's chunks (ISO 15948): the picture apart from what is said beside it, so that the one cannot spoil the other."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .color_space import COLOR_CHUNKS
from .exif import load_exif
from .iptc import from_blocks
from .side_data import SideData

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20  # this bit of a name's first letter: the picture can be decoded without the chunk
_PICTURE = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
_MAX_UNPACKED = 64 << 20
"""Bytes of all texts and the profile: a workflow has a few millions; a bomb has more."""
_XMP_KEY = "XML:com.adobe.xmp"
_RAW = "Raw profile type "
"""ImageMagick's way to keep a profile: in hexadecimal in a text."""


def split_png(data: bytes) -> tuple[bytes, SideData]:
    """A PNG file of the same picture that states nothing else, and what it stated."""
    picture, said, lost, ended = [SIGNATURE], [], [], False
    for kind, content, whole in chunks_of(data):
        ended = kind == b"IEND"
        if not kind[0] & _ANCILLARY or kind in _PICTURE:
            picture.append(whole)
        elif zlib.crc32(kind + content) != struct.unpack(">I", whole[-4:])[0]:
            lost.append(f"{kind.decode('latin-1')} (wrong checksum)")
        else:
            said.append((kind, content))
    if not ended:  # Pillow says itself whether samples are missing, too
        picture.append(struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND")))
    return b"".join(picture), _side_data(said, lost)


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, content, and the whole chunk. What follows the end of the picture is none of it."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        kind = data[place + 4 : place + 8]
        if end > len(data):
            if not kind[0] & _ANCILLARY:
                yield kind, b"", data[place:]
            return
        yield kind, data[place + 8 : end - 4], data[place:end]
        if kind == b"IEND":
            return
        place = end


class _Unpacker:
    def __init__(self) -> None:
        self.left = _MAX_UNPACKED

    def __call__(self, packed: bytes) -> bytes:
        """Raises ValueError."""
        inflate = zlib.decompressobj()
        try:
            content = inflate.decompress(packed, self.left)
        except zlib.error as error:
            raise ValueError("damaged") from error
        if not inflate.eof:
            raise ValueError("too large" if inflate.unconsumed_tail else "damaged")
        self.left -= len(content)
        return content


def _side_data(said: list[tuple[bytes, bytes]], lost: list[str]) -> SideData:
    unpack, side = _Unpacker(), SideData(lost=lost)
    for kind, content in said:
        try:
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                side.texts.append(_text(kind, content, unpack))
            elif kind == b"iCCP":
                side.icc_profile = unpack(content.partition(b"\0")[2][1:])
            elif kind == b"eXIf":
                side.exif = load_exif(content)
            elif kind == b"pHYs" and len(content) == 9 and content[8] == 1:
                across, down = struct.unpack_from(">II", content)
                side.dpi = across * 0.0254, down * 0.0254
            elif COLOR_CHUNKS.get(kind) == len(content):
                side.color[kind] = content
        except Exception as error:  # Pillow raises nearly anything over damaged EXIF
            reason = str(error) if str(error) == "too large" else "damaged"
            lost.append(f"{_name_of(kind, content)} ({reason})")
    _use_up_special_texts(side)
    return side


def _name_of(kind: bytes, content: bytes) -> str:
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return f"the text '{content.partition(bytes(1))[0][:79].decode('latin-1')}'"
    return {b"iCCP": "the colour profile", b"eXIf": "EXIF"}.get(kind, kind.decode("latin-1"))


def _text(kind: bytes, content: bytes, unpack: _Unpacker) -> tuple[str, str]:
    """Raises ValueError and IndexError for a damaged one."""
    key, _, rest = content.partition(b"\0")
    if kind == b"tEXt":
        return key.decode("latin-1"), rest.decode("latin-1")
    if kind == b"zTXt":
        return key.decode("latin-1"), unpack(rest[1:]).decode("latin-1")
    is_packed = rest[0]
    _, _, text = rest[2:].split(b"\0", 2)
    return key.decode("latin-1"), (unpack(text) if is_packed else text).decode("utf-8", "replace")


def _use_up_special_texts(side: SideData) -> None:
    """Of the texts, XMP and ImageMagick's profiles become what they mean."""
    texts, side.texts = side.texts, []
    for key, value in texts:
        if key == _XMP_KEY:
            side.xmp = value.encode("utf-8", "replace")
        elif key.startswith(_RAW):
            try:
                _use_raw_profile(side, key.removeprefix(_RAW), _unhex(value))
            except Exception:  # as above
                side.lost.append(f"the text '{key}' (damaged)")
        else:
            side.texts.append((key, value))


def _unhex(text: str) -> bytes:
    """A name, a length, and hexadecimal lines."""
    _, length, *lines = text.split()
    content = bytes.fromhex("".join(lines))
    if len(content) != int(length):
        raise ValueError("damaged")
    return content


def _use_raw_profile(side: SideData, name: str, content: bytes) -> None:
    if name in ("exif", "APP1") and not content.startswith(b"http"):
        side.exif = side.exif or load_exif(content)
    elif name in ("xmp", "APP1"):
        side.xmp = side.xmp or content.partition(b"\0")[2] or content
    elif name in ("iptc", "8bim"):
        side.iptc = side.iptc or from_blocks(content)
    elif name in ("icc", "icm"):
        side.icc_profile = side.icc_profile or content
