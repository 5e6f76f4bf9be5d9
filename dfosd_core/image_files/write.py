"""Writing image files: the name's ending picks the format, and a file appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from PIL.PngImagePlugin import PngInfo

from ..errors import ImageFileError
from ..files import reason_of, write_whole
from . import FORMATS
from .metadata import ImageMetadata
from .picture import Picture
from .pil import to_pil
from .png16 import write_png16
from .tiff import write_tiff

MAX_EDGE = {"JPEG": 65500, "WEBP": 16383}
MAX_TIFF_BYTES = 4_000_000_000
QUALITY = 95
"""Of JPEG and WebP: what was just restored should not be blurred again."""
_JPEG_SEGMENT = 65000


def check_target(path: Path, picture: Picture, size: tuple[int, int]) -> None:
    """Refuse, before any computing, what the format of `path` cannot hold at (height, width) `size`."""
    name = FORMATS[path.suffix.lower()]
    if name in ("JPEG", "BMP") and picture.has_transparency:
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

    def refuse_existing() -> None:
        if path.exists() and not overwrite:
            raise ImageFileError(f"'{path}' exists by now and was not touched. Use --overwrite to replace it.")

    try:
        with write_whole(path, refuse_existing) as file:
            encode_image(file, FORMATS[path.suffix.lower()], picture)
    except OSError as error:
        raise ImageFileError(f"'{path}' cannot be written: {reason_of(error)}.") from error


def encode_image(file: BinaryIO, name: str, picture: Picture) -> None:
    """Write `picture` into `file` as Pillow's format `name`, one of `FORMATS`; what that cannot hold is left out."""
    if name in ("JPEG", "BMP"):
        picture = picture.without_alpha()
    if name == "WEBP":
        picture = picture.with_three_colors()
    if picture.is_16_bit and name == "PNG":
        write_png16(file, picture, _png_info(picture.metadata))
    elif name == "TIFF":  # 16-bit grey with alpha is known to no reader
        write_tiff(file, picture.with_three_colors() if picture.is_16_bit and picture.has_alpha else picture)
    else:
        to_pil(picture.to_8_bit()).save(file, name, **_options(name, picture.metadata))


def _options(name: str, metadata: ImageMetadata) -> dict[str, Any]:
    """What Pillow's writer of the format takes."""
    kept: dict[str, Any] = {"dpi": metadata.dpi}
    if name != "BMP":
        kept |= {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc_profile}
    own: dict[str, Any] = {}
    if name == "JPEG":
        own = {"quality": QUALITY, "subsampling": 0, "optimize": True, "comment": metadata.comment or b""}
        for key in ("exif", "xmp"):  # one segment each, of 64 KB at most
            kept[key] = kept[key] if len(kept[key] or b"") < _JPEG_SEGMENT else None
    elif name == "WEBP":
        own = {"quality": QUALITY, "exact": True}
    elif name == "PNG":
        own, kept["xmp"] = {"pnginfo": _png_info(metadata)}, None
    return own | {key: value for key, value in kept.items() if value}


def _png_info(metadata: ImageMetadata) -> PngInfo:
    info = PngInfo()
    for key, value in metadata.text:
        info.add_text(key, value)
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return info
