"""HEIC photographs, where `pillow-heif` is installed."""

from __future__ import annotations

from ..errors import ImageFileError
from .color_space import chunks_of_box
from .picture import Opened, Picture
from .pil import from_pil
from .side_data import side_of_pil

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heif(data: bytes) -> bool:
    """By the brands at its start. AVIF is another: its main or one of its compatible brands says so."""
    length = int.from_bytes(data[:4], "big")
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS and b"avif" not in data[8 : min(length, 200)]


def open_heif(data: bytes) -> Opened:
    """Raises ImageFileError, without the file's name, where the package is missing; ValueError for a damaged file."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageFileError("is a HEIC file. Install pillow-heif to read it, or save it as PNG or JPEG.") from error
    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
    width, height = file.size

    def decode() -> Picture:
        image = file.to_pillow()
        side = side_of_pil(image)
        if not side.icc_profile:
            side.color = chunks_of_box(data)
        return from_pil(image, side)

    return Opened(size=(height, width), decode=decode)
