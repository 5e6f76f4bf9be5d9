"""Reading TIFF: grey and RGB by tiff_samples.py; palettes, CMYK, Lab, YCbCr and few bits by Pillow alone."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image, TiffImagePlugin

from ..errors import ImageFileError, few
from . import tiff_pages as tag
from .exif import orientation_of, resolution_of
from .geo import geo_of
from .picture import Opened, Picture, Samples, Sequence, turn_upright
from .pil import picture_of, samples_of
from .side_data import SideData, iptc_of_tags
from .tiff_pages import Page, pages_of
from .tiff_samples import is_plain, read_samples

MAX_BITS = 8 * 2**30
"""Of the samples of a page. A compressed file can claim any number of channels."""
_SAVE = "Save it as grey or RGB with 8 or 16 bits a sample."
_FORMATS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}


def open_tiff(data: bytes) -> Opened:
    """Raises ImageFileError, without the file's name, for what is not read, and anything for a damaged file."""
    pages = pages_of(data)
    pictures = [page for page in pages if page.is_picture]
    if not pictures or any(tag.DNG in page.tags for page in pages):
        raise ImageFileError("holds previews alone, as cameras' raw files do. Develop it, and save it as PNG or TIFF.")
    first, *others = (_open_page(data, page) for page in pictures)
    return (
        first
        if not others
        else Opened(size=first.size, decode=lambda: _decode_all(first, others), pictures=len(pictures))
    )


def _decode_all(first: Opened, others: list[Opened]) -> Picture:
    return replace(first.decode(), sequence=Sequence(following=tuple(page.decode() for page in others)))


def _open_page(data: bytes, page: Page) -> Opened:
    width, length = page.one(tag.WIDTH, 0), page.one(tag.LENGTH, 0)
    if width < 1 or length < 1:
        raise ValueError("it has no size")
    _refuse_other_samples(page)
    if width * length * page.one(tag.CHANNELS, 1) * page.one(tag.BITS, 1) > MAX_BITS:
        raise ImageFileError(
            f"holds {page.one(tag.CHANNELS, 1)} channels of {width}x{length}: too much. Cut it into pieces."
        )
    exif = page.exif(data)
    orientation = orientation_of(exif)
    size = (width, length) if orientation >= 5 else (length, width)
    return Opened(size=size, decode=lambda: _decode(data, page, exif, orientation))


_NAMED = 4
"""So many of a file's numbers are named, the others counted."""


def _refuse_other_samples(page: Page) -> None:
    bits: set[int] = set(page.all(tag.BITS) or (1,))
    others: set[int] = set(page.all(tag.FORMAT)) - {1}
    if others:
        kinds = " and ".join(sorted({_FORMATS.get(kind, "unknown") for kind in others}))
        raise ImageFileError(f"has {kinds} samples of {_words(bits)} bits. {_SAVE}")
    if bits - {1, 2, 4, 8, 16} or len(bits) > 1:
        raise ImageFileError(f"has {_words(bits)} bits a sample. {_SAVE}")


def _words(numbers: set[int]) -> str:
    words = [str(number) for number in sorted(numbers)]
    return " and ".join(words) if len(words) <= _NAMED else few(words, _NAMED)


def _decode(data: bytes, page: Page, exif: Image.Exif, orientation: int) -> Picture:
    if is_plain(page):
        stored, lost = read_samples(data, page)
        samples = turn_upright(stored, orientation)
    else:
        samples, lost = _by_pillow(data, page), []
    return picture_of(samples, _side_data(page, exif, lost), orientation, geo_of(dict(page.tags), page.tags.tagtype))


def _by_pillow(data: bytes, page: Page) -> Samples:
    """Upright: Pillow turns TIFFs itself."""
    try:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
        image.seek(page.number)
    except (SyntaxError, KeyError) as error:
        kind = f"{page.one(tag.CHANNELS, 1)} channels of {page.one(tag.BITS, 1)} bits"
        numbers = (
            f"photometric interpretation {page.one(tag.PHOTOMETRIC, 1)}, compression {page.one(tag.COMPRESSION, 1)}"
        )
        raise ImageFileError(f"is a TIFF of a kind that is not read ({kind}, {numbers}). {_SAVE}") from error
    return samples_of(image)


def _side_data(page: Page, exif: Image.Exif, lost: list[str]) -> SideData:
    def content(number: int) -> bytes | None:
        value = page.tags.get(number)
        return value if isinstance(value, bytes) else None

    side = SideData(icc_profile=content(34675), xmp=content(700), exif=exif, iptc=iptc_of_tags(page.tags), lost=lost)
    try:
        side.dpi = resolution_of(exif)
    except Exception:  # Pillow raises nearly anything over damaged EXIF
        side.dpi = None
    return side
