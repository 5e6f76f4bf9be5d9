"""What a file says beside its samples, as it stands there: taken from Pillow's image here, from PNG in png_read.py."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image

from .color_space import chunks_of_pil
from .exif import ORIENTATION, load_exif, orientation_of, resolution_of
from .iptc import from_blocks
from .xmp import orientation_in

XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
"""What XMP in a JPEG begins with."""
_XMP_KEY = "XML:com.adobe.xmp"
_IPTC_TAG, _PHOTOSHOP_TAG = 33723, 34377


@dataclass(kw_only=True)
class SideData:
    """Nothing in here has been made to fit another image yet."""

    icc_profile: bytes | None = None
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    dpi: tuple[Any, Any] | None = None
    """Dots an inch, across and down, if stated."""
    texts: list[tuple[str, str]] = field(default_factory=lambda: [])
    """Of PNG. A JPEG's or GIF's comment is the one called "Comment"."""
    iptc: bytes | None = None
    color: dict[bytes, bytes] = field(default_factory=lambda: {})
    """PNG's chunks about colour, by name."""
    lost: list[str] = field(default_factory=lambda: [])
    """What cannot be read, in words."""

    @property
    def orientation(self) -> int:
        """1 to 8, of EXIF, or of XMP where EXIF has none."""
        try:
            if self.exif is not None and ORIENTATION in self.exif:
                return orientation_of(self.exif)
        except Exception:  # Pillow raises nearly anything over damaged EXIF
            return 1
        return orientation_in(self.xmp) if self.xmp else 1


def side_of_pil(image: Image.Image) -> SideData:
    """From an image that has been loaded: a PNG may have its metadata behind the samples."""
    info = cast("dict[str, Any]", image.info)
    texts = cast("Mapping[str, str]", getattr(image, "text", {}))
    side = SideData(icc_profile=info.get("icc_profile"), color=chunks_of_pil(info))
    xmp = info.get("xmp") or texts.get(_XMP_KEY) or _segment(image, "APP1", XMP_SEGMENT)
    side.xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow's own way includes what an ImageMagick has hidden in a text
            side.exif = image.getexif() if image.format in ("TIFF", "PNG", None) else load_exif(info.get("exif", b""))
    except Exception:  # as above
        side.lost.append("EXIF (damaged)")
    side.dpi = _dpi(image, side.exif)
    side.texts = [
        (str(key), str(value)) for key, value in texts.items() if key != _XMP_KEY and not key.startswith("Raw profile")
    ]
    comment = info.get("comment")
    if isinstance(comment, bytes):
        side.texts.append(("Comment", _decode(comment)))
    side.iptc = _iptc(image)
    return side


def _segment(image: Image.Image, kind: str, name: bytes) -> bytes | None:
    """Of a JPEG. Pillow before 11 makes nothing of XMP's."""
    found = (content for segment, content in getattr(image, "applist", ()) if segment == kind)
    return next((content.removeprefix(name) for content in found if content.startswith(name)), None)


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _dpi(image: Image.Image, exif: Image.Exif | None) -> tuple[Any, Any] | None:
    """Only what is stated: Pillow's readers put in 72 or 1 where nothing is."""
    try:
        in_exif = resolution_of(exif) if exif is not None else None
    except Exception:  # as above
        in_exif = None
    if image.format == "TIFF":
        return in_exif
    is_stated = image.format not in ("JPEG", "MPO") or image.info.get("jfif_unit") in (1, 2)
    return (image.info.get("dpi") if is_stated else None) or in_exif


def usable_dpi(stated: Any) -> tuple[float, float] | None:
    """As two numbers within reason."""
    try:
        across, down = float(stated[0]), float(stated[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(d) and 0 < d < 1e6 for d in (across, down)) else None


def _iptc(image: Image.Image) -> bytes | None:
    if found := from_blocks(_segment(image, "APP13", b"Photoshop 3.0\0") or b""):
        return found
    return iptc_of_tags(getattr(image, "tag_v2", {}))


def iptc_of_tags(tags: Mapping[int, Any]) -> bytes | None:
    """From a TIFF's."""
    stated = tags.get(_IPTC_TAG, b"")
    if isinstance(stated, tuple):  # some programs write bytes as whole numbers of 32 bits
        stated = struct.pack(f"<{len(stated)}I", *stated)
    for content in (stated, tags.get(_PHOTOSHOP_TAG, b"")):
        if isinstance(content, bytes) and (found := from_blocks(content)):
            return found
    return None
