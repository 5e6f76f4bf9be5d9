"""Reading image files: every kind of PNG, JPEG, WebP, AVIF, TIFF, GIF and BMP becomes an upright grey or RGB `Picture`.

PNG is taken apart in png_read.py and png16_read.py, TIFF in tiff_read.py, HEIC in heif.py; modes of Pillow's images in
pil.py, metadata in side_data.py and metadata.py. Writing is in write.py.
"""

from __future__ import annotations

import io
import logging
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageFileError, few, one_line
from . import FORMATS
from .animation import is_animated, open_animation
from .color_space import chunks_of_box
from .heif import is_heif, open_heif
from .picture import Opened, Picture, turn_upright
from .pil import from_pil, has_avif, picture_of
from .png16_read import is_beyond_pillow, read_16_bit_png
from .png_read import SIGNATURE as PNG_SIGNATURE
from .png_read import split_png
from .side_data import SideData, side_of_pil
from .tiff_pages import SIGNATURES as TIFF_SIGNATURES
from .tiff_read import open_tiff

logger = logging.getLogger("dfosd")

KINDS = "PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP"
MAX_PIXELS = 100_000_000
"""Larger inputs are refused: a small file can claim any size, and x4 of this is 1.6 gigapixels."""
_NOT_READ = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"%PDF": "PDF",
}


def read_image(path: Path, *, sequences: bool = False) -> Picture:
    """Decode the file, turned upright; what of its metadata cannot be kept is said in a line of the log.

    Animations and many pages come whole with `sequences`, and are refused without. Raises ImageFileError, one line with
    its name, if that fails.
    """
    return decode_image(_bytes_of(path), path, sequences=sequences)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) once upright, from the file's head. Raises as `read_image` does, as far as that shows."""
    return decode_size(_bytes_of(path), path)


def decode_image(data: bytes, name: str | Path, *, sequences: bool = False) -> Picture:
    """As `read_image`, of a file's bytes; errors call it `name`."""
    with _one_line(name):
        opened = _open(data)
        if opened.pictures > 1 and not sequences:
            is_document = data.startswith(TIFF_SIGNATURES)
            what = f"holds {opened.pictures} pages" if is_document else f"is animated ({opened.pictures} frames)"
            raise ImageFileError(f"{what}; only single images can be upscaled here. Save one as a PNG.")
        picture = opened.decode()
        if picture.size != opened.size:
            raise ValueError("its size changes while it is decoded")
    following = picture.sequence.following if picture.sequence else ()
    lost = dict.fromkeys(what for each in (picture, *following) for what in each.metadata.lost)
    if lost:
        logger.warning("'%s': left out: %s.", name, few(list(lost)))
    return picture


def decode_size(data: bytes, name: str | Path) -> tuple[int, int]:
    """As `read_size`, of a file's bytes; errors call it `name`."""
    with _one_line(name):
        return _open(data).size


def _bytes_of(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device has no end
            raise ImageFileError(f"'{path}' is no file: a {_kind_of(path)}. Name an image file.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"There is no file '{path}'.") from error
    except OSError as error:
        raise ImageFileError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def _kind_of(path: Path) -> str:
    return "folder" if path.is_dir() else "pipe" if path.is_fifo() else "device or socket"


@contextmanager
def _one_line(name: str | Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and its own size limit
            yield
    except ImageFileError as error:
        raise ImageFileError(f"'{name}' {error}") from error
    except UnidentifiedImageError as error:
        raise ImageFileError(f"'{name}' is damaged or not a {KINDS} image.") from error
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"'{name}' is larger than {_megapixels(MAX_PIXELS)}. Cut it into pieces.") from error
    except MemoryError as error:
        raise ImageFileError(f"'{name}' does not fit into memory.") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything, over several lines
        reason = one_line(str(error)).rstrip(".") or type(error).__name__
        raise ImageFileError(f"'{name}' is damaged: {reason}. Get the file again.") from error


def _open(data: bytes) -> Opened:
    """Raises ImageFileError without the file's name, and whatever Pillow raises."""
    if not data:
        raise ImageFileError("is empty (0 bytes).")
    for signature, kind in _NOT_READ.items():
        if data.startswith(signature):
            raise ImageFileError(f"is a {kind} file, which is not read. Save it as PNG or JPEG.")
    if data.startswith(PNG_SIGNATURE):
        opened = _open_png(data)
    elif data.startswith(TIFF_SIGNATURES):
        opened = open_tiff(data)
    elif is_heif(data):
        opened = open_heif(data)
    else:
        opened = _open_by_pillow(data)
    height, width = opened.size
    if height * width * opened.pictures > MAX_PIXELS:
        times = f" {opened.pictures} times" if opened.pictures > 1 else ""
        raise ImageFileError(
            f"has {_megapixels(height * width * opened.pictures)} ({width}x{height}{times}); "
            f"at most {_megapixels(MAX_PIXELS)} can be read. Cut it into pieces."
        )
    return opened


def _open_png(data: bytes) -> Opened:
    data, side = split_png(data)
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    if is_animated(image):
        return open_animation(image, side)

    def decode() -> Picture:
        if not is_beyond_pillow(data):
            return from_pil(image, side)
        return picture_of(turn_upright(read_16_bit_png(data, image), side.orientation), side, side.orientation)

    return Opened(size=_upright_size(image, side), decode=decode)


def _open_by_pillow(data: bytes) -> Opened:
    if data[4:8] == b"ftyp" and not has_avif():
        raise ImageFileError("is an AVIF file, which this Pillow does not read. Install Pillow 11.3 or newer.")
    formats = [name for name in dict.fromkeys(FORMATS.values()) if name != "AVIF" or has_avif()]
    image = Image.open(io.BytesIO(data), formats=formats)
    if is_animated(image):
        return open_animation(image, side_of_pil(image))

    def decode() -> Picture:
        try:
            image.load()
        except OSError:
            if image.format not in ("JPEG", "MPO"):
                raise
            return _without_end_marker(data)
        side = side_of_pil(image)
        if image.format == "AVIF" and not side.icc_profile:
            side.color = chunks_of_box(data)
        return from_pil(image, side)

    return Opened(size=_upright_size(image, side_of_pil(image)), decode=decode)


def _without_end_marker(data: bytes) -> Picture:
    """A JPEG that lacks its end alone. Raises OSError for one that lacks samples.

    The decoder makes up what is missing, without a word. It cannot if all is there: then anything may follow.
    """
    data = data.rstrip(b"\xff")  # half an end marker
    ends = (b"\xff\xd9", b"\xb1\x5e" * 2000 + b"\xff\xd9")
    first, second = (from_pil(Image.open(io.BytesIO(data + end), formats=["JPEG", "MPO"])) for end in ends)
    if not np.array_equal(first.samples, second.samples):
        raise OSError("it is cut off")
    return first


def _upright_size(image: Image.Image, side: SideData) -> tuple[int, int]:
    return (image.width, image.height) if side.orientation >= 5 else (image.height, image.width)


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} megapixels"
