"""What each format holds of a picture's metadata, in which place; and what it cannot hold, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .color_space import what_only_png_holds
from .exif import ASCII_TAGS, CAMERA_IFD, USER_COMMENT, load_exif, resolution_entries, with_entries
from .geo import GeoTags
from .metadata import ImageMetadata

_JPEG_SEGMENT = 65000
_JPEG_PROFILE = 16_000_000
_MAKE, _MODEL = 271, 272


@dataclass(frozen=True, kw_only=True)
class Carried:
    """As `ImageMetadata`, for one file of one format."""

    icc_profile: bytes | None = None
    color: tuple[tuple[bytes, bytes], ...] = ()
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Only for formats that have their own place for it."""
    text: tuple[tuple[str, str], ...] = ()
    comment: str | None = None
    iptc: bytes | None = None
    geo: GeoTags = ()
    lost: tuple[str, ...] = ()


def carry(metadata: ImageMetadata, name: str, *, is_grey: bool) -> Carried:
    """For Pillow's format `name`. Sizes are those of the picture already."""
    if name == "PNG":
        lost = ("the place on earth",) if metadata.geo else ()
        return Carried(
            icc_profile=metadata.icc_profile,
            color=metadata.color,
            exif=metadata.exif,
            xmp=metadata.xmp,
            dpi=metadata.dpi,
            text=metadata.text,
            iptc=metadata.iptc,
            lost=lost,
        )
    only_png = what_only_png_holds(dict(metadata.color))
    lost = [only_png] if only_png else []
    if name in ("BMP", "GIF"):
        return _hardly_anything(metadata, name, lost)
    exif, comment = _texts_into_exif(metadata, name, lost)
    if name in ("WEBP", "AVIF") and metadata.dpi:
        exif = with_entries(exif, resolution_entries(metadata.dpi), {})
    carried = Carried(
        icc_profile=metadata.any_profile(is_grey=is_grey),
        exif=exif,
        xmp=metadata.xmp,
        dpi=metadata.dpi if name in ("JPEG", "TIFF") else None,
        comment=comment,
        iptc=metadata.iptc if name in ("JPEG", "TIFF") else None,
        geo=metadata.geo if name == "TIFF" else (),
    )
    lost += ["IPTC"] if metadata.iptc and not carried.iptc else []
    lost += ["the place on earth"] if metadata.geo and not carried.geo else []
    return _within_segments(carried, metadata, lost) if name == "JPEG" else replace(carried, lost=tuple(lost))


def _hardly_anything(metadata: ImageMetadata, name: str, lost: list[str]) -> Carried:
    """A BMP states its resolution, a GIF has a comment."""
    comment = dict(metadata.text).get("Comment") if name == "GIF" else None
    stated: dict[str, object] = {
        "EXIF": metadata.exif,
        "XMP": metadata.xmp,
        "texts": any(key != "Comment" or comment is None for key, _ in metadata.text),
        "IPTC": metadata.iptc,
        "the place on earth": metadata.geo,
        "the resolution": metadata.dpi if name == "GIF" else None,
    }
    lost += [what for what, content in stated.items() if content]
    return Carried(dpi=metadata.dpi if name == "BMP" else None, comment=comment, lost=tuple(lost))


def _within_segments(carried: Carried, metadata: ImageMetadata, lost: list[str]) -> Carried:
    """A JPEG's segments have 64 KB, and EXIF, XMP, IPTC and a comment one each."""
    if len(carried.exif or b"") > _JPEG_SEGMENT and carried.exif != metadata.exif:
        carried = replace(carried, exif=metadata.exif)
        lost.append("long texts")
    large: dict[str, Any] = {}
    for field, what in (("exif", "EXIF"), ("xmp", "XMP"), ("iptc", "IPTC")):
        if len(getattr(carried, field) or b"") > _JPEG_SEGMENT:
            large[field] = None
            lost.append(f"{what} (more than 64 KB)")
    if len((carried.comment or "").encode()) > _JPEG_SEGMENT:
        large["comment"] = None
        lost.append("the comment (more than 64 KB)")
    if len(carried.icc_profile or b"") > _JPEG_PROFILE:
        large["icc_profile"] = None
        lost.append("the colour profile (more than 16 MB)")
    return replace(carried, **large, lost=tuple(lost))


def _texts_into_exif(metadata: ImageMetadata, name: str, lost: list[str]) -> tuple[bytes | None, str | None]:
    """EXIF with PNG's texts, where WebUIs and ComfyUI look for theirs, and a JPEG's comment. Entries there stay."""
    exif = load_exif(metadata.exif or b"")
    has_comment = USER_COMMENT in exif.get_ifd(CAMERA_IFD)
    entries: dict[int, Any] = {}
    camera: dict[int, Any] = {}
    comment: str | None = None
    for key, value in sorted(metadata.text, key=lambda text: text[0] != "parameters"):  # which has the first claim
        tag, content = _place_of(key, value)
        if key == "Comment" and name == "JPEG" and comment is None:
            comment = value
        elif tag == USER_COMMENT and not has_comment and not camera:
            camera[USER_COMMENT] = b"UNICODE\0" + value.encode("utf-16-be", "replace")
        elif tag in ASCII_TAGS and tag not in exif and tag not in entries:
            entries[tag] = content.encode("utf-8", "replace")
        else:
            lost.append(f"the text '{key}'")
    return (with_entries(metadata.exif, entries, camera) if entries or camera else metadata.exif), comment


_TEXTS: Mapping[str, int] = {
    "parameters": USER_COMMENT,
    "Comment": USER_COMMENT,
    "Description": 270,
    "Title": 270,
    "Software": 305,
    "Author": 315,
    "Copyright": 33432,
}


def _place_of(key: str, value: str) -> tuple[int, str]:
    """ComfyUI looks for a workflow behind its name in two entries that are meant for the camera."""
    if key in ("workflow", "prompt"):
        return {"workflow": _MAKE, "prompt": _MODEL}[key], f"{key}:{value}"
    return _TEXTS.get(key, 0), value
