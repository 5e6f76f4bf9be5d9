"""Reading image files: every kind of PNG, JPEG, WebP, TIFF and BMP becomes an upright grey or RGB `Picture`.

Writing them is in write.py, 16-bit samples in read16.py, all other modes in pil.py, metadata in metadata.py.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageFileError
from . import FORMATS
from .metadata import read_metadata
from .picture import Picture
from .pil import from_pil
from .read16 import is_16_bit_file, read_16_bit

KINDS = "PNG, JPEG, WebP, TIFF or BMP"
MAX_PIXELS = 100_000_000
"""Larger inputs are refused: a small file can claim any size, and x4 of this is 1.6 gigapixels."""
T = TypeVar("T")
# GIF is read so that an animation can be named as one.
_FORMATS = (*dict.fromkeys(FORMATS.values()), "GIF")


def read_image(path: Path) -> Picture:
    """Decode the file, turned upright. Raises ImageFileError, one line with its name, if that fails."""
    return decode_image(_bytes_of(path), path)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) once upright, from the file's head. Raises as `read_image` does, as far as that shows."""
    return decode_size(_bytes_of(path), path)


def decode_image(data: bytes, name: str | Path) -> Picture:
    """As `read_image`, of a file's bytes; errors call it `name`."""
    return _open(data, name, _decode)


def decode_size(data: bytes, name: str | Path) -> tuple[int, int]:
    """As `read_size`, of a file's bytes; errors call it `name`."""
    return _open(data, name, lambda _, image: _upright_size(image))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"There is no file '{path}'.") from error
    except OSError as error:
        raise ImageFileError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def _open(data: bytes, name: str | Path, decode: Callable[[bytes, Image.Image], T]) -> T:
    if not data:
        raise ImageFileError(f"'{name}' is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and its own size limit
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _refuse_unsuitable(name, image)
                return decode(data, image)
    except ImageFileError:
        raise
    except UnidentifiedImageError as error:
        raise ImageFileError(f"'{name}' is damaged or not a {KINDS} image.") from error
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"'{name}' is larger than {_megapixels(MAX_PIXELS)}. Cut it into pieces.") from error
    except MemoryError as error:
        raise ImageFileError(f"'{name}' does not fit into memory.") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything, over several lines
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ImageFileError(f"'{name}' is damaged: {reason}. Get the file again.") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(274, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _refuse_unsuitable(name: str | Path, image: Image.Image) -> None:
    # MPO is a JPEG with more pictures behind it, as many phones write: the first is the photograph.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        what = f"holds {frames} pages" if image.format == "TIFF" else f"is animated ({frames} frames)"
        raise ImageFileError(f"'{name}' {what}; only single images can be upscaled. Save one as a PNG.")
    if image.width * image.height > MAX_PIXELS:
        raise ImageFileError(
            f"'{name}' has {_megapixels(image.width * image.height)} ({image.width}x{image.height}); "
            f"at most {_megapixels(MAX_PIXELS)} can be read. Cut it into pieces."
        )
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    if (image.mode in ("F", "I") and image.format != "PNG") or set(np.ravel(tags.get(339, 1))) != {1}:
        raise ImageFileError(
            f"'{name}' has 32-bit, signed or floating-point samples. Save it with 8 or 16 bits a sample."
        )
    if tags.get(284, 1) != 1 and set(tags.get(258, ())) == {16}:
        raise ImageFileError(f"'{name}' has 16-bit samples in separate planes. Save it with interleaved samples.")


def _decode(data: bytes, image: Image.Image) -> Picture:
    if not is_16_bit_file(data, image):
        return from_pil(image)
    samples = np.ascontiguousarray(read_16_bit(data, image))
    return Picture(samples=samples, metadata=read_metadata(image, is_grey=samples.shape[2] < 3))


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} megapixels"
