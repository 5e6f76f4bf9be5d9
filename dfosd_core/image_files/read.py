"""Reading image files: every kind of PNG, JPEG, WebP, TIFF and BMP becomes an upright grey or RGB `Picture`.

Writing them is in writing.py, 16-bit samples in deep_reading.py, metadata in carried.py.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from ..errors import ImageFileError
from .metadata import read_carried
from .picture import Picture, Samples, turn_upright
from .read16 import is_deep, read_deep

KINDS = "PNG, JPEG, WebP, TIFF or BMP"
MAX_PIXELS = 100_000_000
"""Larger inputs are refused: a small file can claim any size, and x4 of this is 1.6 gigapixels."""
T = TypeVar("T")
# GIF is read so that an animation can be named as one.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")


def read_image(path: Path) -> Picture:
    """Decode the file, turned upright. Raises ImageFileError, one line with its name, if that fails."""
    return _read(path, _decode)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) once upright, from the file's head. Raises as `read_image` does, as far as that shows."""
    return _read(path, lambda _, image: _upright_size(image))


def _read(path: Path, decode: Callable[[bytes, Image.Image], T]) -> T:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"There is no file '{path}'.") from error
    except OSError as error:
        raise ImageFileError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not data:
        raise ImageFileError(f"'{path}' is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and its own size limit
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _refuse_unsuitable(path, image)
                return decode(data, image)
    except ImageFileError:
        raise
    except UnidentifiedImageError as error:
        raise ImageFileError(f"'{path}' is damaged or not a {KINDS} image.") from error
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"'{path}' is larger than {_megapixels(MAX_PIXELS)}. Cut it into pieces.") from error
    except MemoryError as error:
        raise ImageFileError(f"'{path}' does not fit into memory.") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise ImageFileError(f"'{path}' is damaged: {_reason(error)}. Get the file again.") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(274, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _refuse_unsuitable(path: Path, image: Image.Image) -> None:
    # MPO is a JPEG with more pictures behind it, as many phones write: the first is the photograph.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        what = f"holds {frames} pages" if image.format == "TIFF" else f"is animated ({frames} frames)"
        raise ImageFileError(f"'{path}' {what}; only single images can be upscaled. Save one as a PNG.")
    if image.width * image.height > MAX_PIXELS:
        raise ImageFileError(
            f"'{path}' has {_megapixels(image.width * image.height)} ({image.width}x{image.height}); "
            f"at most {_megapixels(MAX_PIXELS)} can be read. Cut it into pieces."
        )
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    if image.mode in ("F", "I") or set(np.ravel(tags.get(339, 1))) != {1}:
        raise ImageFileError(
            f"'{path}' has 32-bit, signed or floating-point samples. Save it with 8 or 16 bits a sample."
        )
    if tags.get(284, 1) != 1 and set(tags.get(258, ())) == {16}:
        raise ImageFileError(f"'{path}' has 16-bit samples in separate planes. Save it with interleaved samples.")


def _decode(data: bytes, image: Image.Image) -> Picture:
    if is_deep(data, image):
        samples: Samples = read_deep(data, image)
        orientation = 1 if image.format == "TIFF" else image.getexif().get(274, 1)
    else:
        image.load()  # a TIFF is turned upright by Pillow itself here, and no longer has an orientation after
        orientation = image.getexif().get(274, 1)
        samples = _shallow_samples(image)
    samples = np.ascontiguousarray(turn_upright(samples, orientation))
    return Picture(samples=samples, carried=read_carried(image, is_grey=samples.shape[2] < 3))


def _shallow_samples(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, C) uint8 from whatever mode Pillow decoded."""
    see_through = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if image.mode in ("P", "PA"):
        samples = np.asarray(image.convert("RGBA" if see_through else "RGB"))
        light = samples[..., :3]
        # Optimisers store grey pictures with a palette; a colour profile would not fit them any more.
        grey = "icc_profile" not in image.info and bool((light == light[..., :1]).all())
        return samples[..., [0, 3] if see_through else [0]] if grey else samples
    if image.mode in ("1", "L", "LA", "La"):
        return _array(image.convert("LA" if see_through else "L"))
    if image.mode in ("CMYK", "LAB"):
        return _array(_to_srgb(image))
    return _array(image.convert("RGBA" if see_through else "RGB"))


def _to_srgb(image: Image.Image) -> Image.Image:
    """CMYK through its profile, or plainly if it has none of use; Lab through its definition."""
    try:
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (KeyError, OSError, ImageCms.PyCMSError):
        return image.convert("RGB")
    assert converted is not None
    return converted


def _array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).reshape(image.height, image.width, -1)


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} megapixels"


def _reason(error: Exception) -> str:
    """Pillow's reason without its line breaks and its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
