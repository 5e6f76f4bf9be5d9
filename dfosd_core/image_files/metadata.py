"""What an image says beside its samples: colour profile, EXIF, XMP, resolution, texts."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image

logger = logging.getLogger("dfosd")

_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
# Description, make, model, software, date, artist, host, rating, copyright, Windows' XP fields.
# In a TIFF all other tags describe how its own samples are stored.
_KEPT_TAGS = (270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
_NOT_KEPT_IN_EXIF = (0xA002, 0xA003, _INTEROP_IFD)  # the first two are the sizes
_XMP_KEY = "XML:com.adobe.xmp"
_XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="\d"|<tiff:Orientation>\d</tiff:Orientation>')


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """What stays true for the upscaled image. None and empty: the input had none."""

    icc_profile: bytes | None = None
    """Fits the samples: a grey profile for grey, an RGB profile for colour."""
    exif: bytes | None = None
    """`Exif\\0\\0` and a TIFF structure, without what would be wrong now: orientation, sizes, thumbnail."""
    xmp: bytes | None = None
    """An XMP packet, without an orientation."""
    dpi: tuple[float, float] | None = None
    """Dots an inch, across and down: as in the input, so the print gets larger and not finer."""
    text: tuple[tuple[str, str], ...] = ()
    """A PNG's text entries, which other PNGs take over."""
    comment: bytes | None = None
    """A JPEG's comment, which other JPEGs take over."""


def read_metadata(image: Image.Image, *, is_grey: bool) -> ImageMetadata:
    """From an image that has been loaded: a PNG may have its metadata behind the samples."""
    info = cast("dict[str, Any]", image.info)
    texts = cast("Mapping[str, str]", getattr(image, "text", {}))
    xmp, profile = info.get("xmp") or texts.get(_XMP_KEY), info.get("icc_profile")
    return ImageMetadata(
        # That of a CMYK file was used up by the conversion, and is for other samples.
        icc_profile=profile if profile and profile[16:20] == (b"GRAY" if is_grey else b"RGB ") else None,
        exif=_exif(image.getexif()),
        xmp=_XMP_ORIENTATION.sub(b"", xmp.encode() if isinstance(xmp, str) else xmp) if xmp else None,
        dpi=_dpi(info.get("dpi")),
        # "Raw profile type exif" is ImageMagick's way to hide EXIF, orientation and all, in a text.
        text=tuple(
            (str(key), str(value))
            for key, value in texts.items()
            if key != _XMP_KEY and not key.startswith("Raw profile type")
        ),
        comment=info["comment"] if isinstance(info.get("comment"), bytes) and image.format != "GIF" else None,
    )


def _dpi(stated: Any) -> tuple[float, float] | None:
    try:
        across, down = float(stated[0]), float(stated[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(d) and 0 < d < 1e6 for d in (across, down)) else None


def _exif(source: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    try:
        kept.update({tag: source[tag] for tag in _KEPT_TAGS if tag in source})
        camera = {tag: value for tag, value in source.get_ifd(_EXIF_IFD).items() if tag not in _NOT_KEPT_IN_EXIF}
        for tag, ifd in ((_EXIF_IFD, camera), (_GPS_IFD, dict(source.get_ifd(_GPS_IFD)))):
            if ifd:
                kept[tag] = ifd
        return kept.tobytes() if len(kept) else None
    except Exception as error:  # Pillow raises nearly anything over damaged EXIF; the picture is still good
        logger.warning("EXIF left out, it is damaged: %s", error)
        return None
