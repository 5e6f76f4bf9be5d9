"""Writing image files: the name's ending picks the format, and a file appears whole or not at all."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ImageFileError, few
from ..files import reason_of, write_whole
from . import FORMATS, QUALITY
from .animation import save_animation
from .carry import Carried, carry
from .color_space import what_only_png_holds
from .iptc import to_block
from .picture import Picture, Sequence
from .pil import has_avif, to_pil, to_srgb
from .png_write import write_animated_png, write_png
from .side_data import XMP_SEGMENT
from .tiff_write import write_tiff

logger = logging.getLogger("dfosd")

DEEP = ("PNG", "TIFF")
"""Hold 16 bits a sample."""
ANIMATED, PAGED = ("PNG", "WEBP", "AVIF", "GIF"), ("TIFF",)
MAX_EDGE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 32768, "GIF": 65535}
MAX_AVIF_PIXELS = 16384 * 16384
"""More is not decoded again by libavif."""
MAX_TIFF_BYTES = 4_000_000_000
MAX_SEQUENCE_BYTES = 2_000_000_000
"""Frames and pages are in memory at once."""


def check_target(path: Path, picture: Picture, size: tuple[int, int]) -> None:
    """Refuse, before any computing, what the format of `path` cannot hold at (height, width) `size`."""
    name = FORMATS[path.suffix.lower()]
    if name == "AVIF" and not has_avif():
        raise ImageFileError(
            f"'{path}': this Pillow does not write AVIF. Install Pillow 11.3 or newer, or write .webp."
        )
    if name in ("JPEG", "BMP") and picture.has_transparency:
        raise ImageFileError(
            f"'{path}': {name} cannot hold the input's transparency. Write .png, .webp or .tiff instead."
        )
    only_png = what_only_png_holds(dict(picture.metadata.color))
    if name != "PNG" and only_png and not picture.metadata.icc_profile:
        raise ImageFileError(f"'{path}': {name} cannot say that the input has {only_png}. Write .png instead.")
    if picture.sequence:
        _check_sequence(path, name, picture, picture.sequence, size)
    edge = MAX_EDGE.get(name)
    if edge and max(size) > edge:
        raise ImageFileError(
            f"'{path}': {name} holds at most {edge} pixels a side, the result has {size[1]}x{size[0]}. "
            "Write .png or .tiff instead."
        )
    if name == "AVIF" and size[0] * size[1] > MAX_AVIF_PIXELS:
        raise ImageFileError(f"'{path}': the result is too large for AVIF (268 megapixels). Write .png instead.")
    if name == "TIFF" and size[0] * size[1] * picture.samples[0, 0].nbytes > MAX_TIFF_BYTES:
        raise ImageFileError(f"'{path}': the result is too large for TIFF (4 GB). Write .png instead.")


def _check_sequence(path: Path, name: str, picture: Picture, sequence: Sequence, size: tuple[int, int]) -> None:
    able = ANIMATED if sequence.is_animation else PAGED
    if name not in able:
        endings = " or ".join(dict.fromkeys(suffix for suffix, kind in FORMATS.items() if kind in able))
        raise ImageFileError(f"'{path}': the input has {sequence}, and {name} holds one. Write {endings} instead.")
    memory = size[0] * size[1] * picture.samples[0, 0].nbytes * (len(sequence.following) + 1)
    if memory > MAX_SEQUENCE_BYTES:
        raise ImageFileError(
            f"'{path}': {sequence} of {size[1]}x{size[0]} are {memory / 1e9:.1f} GB, at most 2 GB are made. "
            "Use a smaller scale, or cut the input into pieces."
        )


def write_image(path: Path, picture: Picture, *, overwrite: bool = False, quality: int = QUALITY) -> None:
    """Write `picture`, in 16 bits if it has them and the format can; what the format cannot hold is said in a line of
    the log. Raises ImageFileError, one line."""
    name = FORMATS[path.suffix.lower()]
    try:
        with write_whole(path, overwrite=overwrite) as file:
            lost = encode_image(file, name, picture, quality)
    except FileExistsError as error:
        raise ImageFileError(f"'{path}' exists by now and was not touched. Use --overwrite to replace it.") from error
    except OSError as error:
        raise ImageFileError(f"'{path}' cannot be written: {reason_of(error)}.") from error
    if lost:
        logger.warning("'%s': %s has no place for: %s.", path, name, few(lost))


def encode_image(file: BinaryIO, name: str, picture: Picture, quality: int = QUALITY) -> list[str]:
    """Write `picture` into `file` as Pillow's format `name`, one of `FORMATS`; return what it cannot hold, in words."""
    fitted, carried, lost = _fit(picture, name)
    if name == "PNG" and fitted.sequence:
        write_animated_png(file, fitted, carried)
    elif name == "PNG":
        write_png(file, fitted, carried)
    elif name == "TIFF":
        pointer = write_tiff(file, fitted, carried)
        for page in fitted.sequence.following if fitted.sequence else ():
            page, carried, lost_of_page = _fit(page, name)
            lost += lost_of_page
            pointer = write_tiff(file, page, carried, pointer)
    elif fitted.sequence:
        save_animation(file, name, fitted, _options(name, carried, quality))
    else:
        image = to_pil(fitted)
        image.info.clear()
        image.save(file, name, **_options(name, carried, quality))
    return list(dict.fromkeys(lost))


def _fit(picture: Picture, name: str) -> tuple[Picture, Carried, list[str]]:
    """The picture as the format has it, with what goes with it, and what is lost, in words."""
    lost = ["16 bits a sample (8 are written)"] if picture.is_16_bit and name not in DEEP else []
    # 16-bit grey with alpha in a TIFF is known to few readers.
    if name in ("WEBP", "AVIF") or (name == "TIFF" and picture.is_16_bit and picture.has_alpha):
        picture = picture.with_three_colors()
    carried = carry(picture.metadata.of_size(picture.size), name, is_grey=picture.is_grey)
    lost += carried.lost
    if name == "GIF":
        lost.append("more than 256 colours")
        picture = to_srgb(picture).with_hard_alpha()
    elif name in ("JPEG", "BMP"):
        picture = (to_srgb(picture) if name == "BMP" else picture).without_alpha()
    picture = picture if name in DEEP else picture.to_8_bit()
    if picture.sequence and picture.sequence.is_animation:  # a profile is of all frames
        frames = (replace(frame, metadata=picture.metadata) for frame in picture.sequence.following)
        following = tuple(_fit(frame, name)[0] for frame in frames)
        picture = replace(picture, sequence=replace(picture.sequence, following=following))
    return picture, carried, lost


def _options(name: str, carried: Carried, quality: int) -> dict[str, Any]:
    """What Pillow's writer of the format takes."""
    if name == "BMP":  # Pillow would state 96 where nothing is known
        return {"dpi": carried.dpi or (0, 0)}
    if name == "GIF":
        return {"comment": (carried.comment or "").encode()}
    own: dict[str, Any] = {"quality": quality, "exact": True} if name == "WEBP" else {"quality": quality}
    if name == "AVIF":
        own["subsampling"] = "4:4:4"
    if name == "JPEG":
        own |= {"subsampling": 0, "optimize": True, "comment": (carried.comment or "").encode()}
        own["extra"] = b"".join(_jpeg_segments(carried))
    kept = {field: getattr(carried, field) for field in ("dpi", "exif", "icc_profile")}
    kept["xmp"] = None if name == "JPEG" else carried.xmp
    return own | {key: value for key, value in kept.items() if value}


def _jpeg_segments(carried: Carried) -> Iterator[bytes]:
    if carried.xmp:
        content = XMP_SEGMENT + carried.xmp
        yield b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    if carried.iptc:
        content = b"Photoshop 3.0\0" + to_block(carried.iptc)
        yield b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
