"""Writing image files: the name's ending picks the format, and a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import ImageFileError
from .formats import FORMATS
from .picture import Carried, Picture
from .png16 import write_deep_png
from .tiff import write_tiff

MAX_EDGE = {"JPEG": 65500, "WEBP": 16383}
MAX_TIFF_BYTES = 4_000_000_000
QUALITY = 95
"""Of JPEG and WebP: what was just restored should not be blurred again."""
_JPEG_SEGMENT = 65000


def check_target(path: Path, picture: Picture, size: tuple[int, int]) -> None:
    """Refuse, before any computing, what the format of `path` cannot hold at (height, width) `size`."""
    name = FORMATS[path.suffix.lower()]
    if name in ("JPEG", "BMP") and picture.is_see_through:
        raise ImageFileError(
            f"'{path}': {name} cannot hold the input's transparency. Write .png, .webp or .tiff instead."
        )
    edge = MAX_EDGE.get(name)
    if edge and max(size) > edge:
        raise ImageFileError(
            f"'{path}': {name} holds at most {edge} pixels a side, the result has {size[1]}x{size[0]}. "
            "Write .png or .tiff instead."
        )
    if name == "TIFF" and size[0] * size[1] * picture.samples[0, 0].nbytes > MAX_TIFF_BYTES:
        raise ImageFileError(f"'{path}': the result is too large for TIFF (4 GB). Write .png instead.")


def write_image(path: Path, picture: Picture, *, overwrite: bool = False) -> None:
    """Write `picture`, in 16 bits if it has them and the format can. Raises ImageFileError, one line."""
    try:
        with _replacing(path, overwrite=overwrite) as file:
            _encode(file, FORMATS[path.suffix.lower()], picture)
    except OSError as error:
        raise ImageFileError(f"'{path}' cannot be written: {_why(error)}.") from error


@contextmanager
def _replacing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place at the end, and is gone after an error or interruption."""
    temporary = path.with_name(f".dfosd-{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and not overwrite:
            raise ImageFileError(f"'{path}' exists by now and was not touched. Use --overwrite to replace it.")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(file: BinaryIO, name: str, picture: Picture) -> None:
    if name in ("JPEG", "BMP"):
        picture = picture.without_alpha()
    if name == "WEBP":
        picture = picture.with_three_colors()
    if picture.is_deep and name == "PNG":
        write_deep_png(file, picture, _png_info(picture.carried))
    elif name == "TIFF":  # 16-bit grey with alpha is known to no reader
        write_tiff(file, picture.with_three_colors() if picture.is_deep and picture.has_alpha else picture)
    else:
        shallow = picture.shallow()
        data = shallow.samples[..., 0] if shallow.samples.shape[2] == 1 else shallow.samples
        Image.fromarray(data).save(file, name, **_options(name, picture.carried))


def _options(name: str, carried: Carried) -> dict[str, Any]:
    """What Pillow's writer of the format takes."""
    exif, xmp, icc_profile = carried.exif, carried.xmp, carried.icc_profile
    options: dict[str, Any] = {"dpi": carried.dpi} if carried.dpi else {}
    if name == "BMP":
        return options
    if name == "JPEG":  # one segment each, of 64 KB at most
        options |= {"quality": QUALITY, "subsampling": 0, "optimize": True, "comment": carried.comment or b""}
        exif = exif if exif and len(exif) < _JPEG_SEGMENT else None
        xmp = xmp if xmp and len(xmp) < _JPEG_SEGMENT else None
    elif name == "WEBP":
        options |= {"quality": QUALITY, "exact": True}
    elif name == "PNG":
        options["pnginfo"] = _png_info(carried)
        xmp = None
    options |= {"exif": exif} if exif else {}
    options |= {"xmp": xmp} if xmp else {}
    return {**options, "icc_profile": icc_profile} if icc_profile else options


def _png_info(carried: Carried) -> PngInfo:
    info = PngInfo()
    for key, value in carried.text:
        info.add_text(key, value)
    if carried.xmp:
        info.add_itxt("XML:com.adobe.xmp", carried.xmp.decode("utf-8", "replace"))
    return info


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)
