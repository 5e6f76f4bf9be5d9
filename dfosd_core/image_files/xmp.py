"""XMP packets (ISO 16684-1) as text: what an upscaled image makes wrong is changed or removed, the rest stays.

Properties are attributes or elements; a packet may call their namespaces as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NAMESPACES = {
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
}
_ANY = r"[\w.-]+"
# What belongs to pictures, films and texts that lie behind the picture in its file, and digests of what was changed.
_REMOVED = {
    "tiff": ("NativeDigest",),
    "exif": ("NativeDigest",),
    "xmp": ("Thumbnails",),
    "xmpNote": ("HasExtendedXMP",),
    "GCamera": ("MotionPhoto", "MicroVideo"),
    "Container": ("Directory",),
    "hdrgm": ("",),
}
_GPANO = {
    0: (
        *("FullPanoHeightPixels", "SourceImageHeightPixels", "CroppedAreaImageHeightPixels", "CroppedAreaTopPixels"),
        *("LargestValidInteriorRectTop", "LargestValidInteriorRectHeight"),
    ),
    1: (
        *("FullPanoWidthPixels", "SourceImageWidthPixels", "CroppedAreaImageWidthPixels", "CroppedAreaLeftPixels"),
        *("LargestValidInteriorRectLeft", "LargestValidInteriorRectWidth"),
    ),
}
_SIZES = {
    0: (("tiff", "ImageLength"), ("exif", "PixelYDimension")),
    1: (("tiff", "ImageWidth"), ("exif", "PixelXDimension")),
}
_FOCAL_PLANE = {0: "FocalPlaneYResolution", 1: "FocalPlaneXResolution"}


def kept_xmp(xmp: bytes, orientation: int) -> tuple[bytes, list[str]]:
    """The packet for an image that was turned upright and has nothing behind it; what it lost in words."""
    text = _decode(xmp)
    for prefix, names in _REMOVED.items():
        for name in names:
            text = _remove(text, prefix, name + r"[\w.-]*")
    text = _remove(text, "tiff", "Orientation")
    lost: list[str] = []
    if orientation != 1:  # programs do not agree on whether these are of the image as stored or upright
        shorter = _remove(_remove(text, "mwg-rs", "Regions"), "exif", "Subject(Area|Location)")
        lost = ["regions in XMP (the picture was turned)"] if shorter != text else []
        text = shorter
    return text.encode(), lost


def orientation_in(xmp: bytes) -> int:
    """1 to 8; 1 where none is stated."""
    text = _decode(xmp)
    for prefix in _prefixes(text, "tiff"):
        found = re.search(_attribute(prefix, "Orientation"), text) or re.search(_element(prefix, "Orientation"), text)
        value = (found["value"] or "").strip("\"' \t\r\n") if found else ""
        if len(value) == 1 and value in "12345678":
            return int(value)
    return 1


def scaled_xmp(xmp: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Of an image that was (height, width) `old` and is `new`."""
    text = _decode(xmp)
    for axis in (0, 1):
        ratio = new[axis] / old[axis]
        for prefix, name in _SIZES[axis]:
            text = _change(text, prefix, name, lambda _, length=new[axis]: str(length))
        for name in _GPANO[axis]:
            text = _change(text, "GPano", name, lambda value, ratio=ratio: _scaled(value, ratio))
        text = _change(text, "exif", _FOCAL_PLANE[axis], lambda value, ratio=ratio: _scaled_fraction(value, ratio))
    text = _remove(text, "exif", "Subject(Area|Location)")  # EXIF's own entry says it in the new size
    return _with_region_sizes(text, old, new).encode()


def _with_region_sizes(text: str, old: tuple[int, int], new: tuple[int, int]) -> str:
    """Face regions are fractions of a size that they state."""

    def change(found: re.Match[str]) -> str:
        inner = found[0]
        for axis, name in ((0, "h"), (1, "w")):
            ratio = new[axis] / old[axis]
            for prefix in _prefixes(text, "stDim"):
                inner = _substitute(inner, prefix, name, lambda value, ratio=ratio: _scaled(value, ratio))
        return inner

    for prefix in _prefixes(text, "mwg-rs"):
        text = re.sub(_element(prefix, "AppliedToDimensions"), change, text, flags=re.DOTALL)
    return text


def _scaled(value: str, ratio: float) -> str:
    try:
        return str(round(float(value) * ratio))
    except (ValueError, OverflowError):
        return value


def _scaled_fraction(value: str, ratio: float) -> str:
    """XMP writes rationals as "3000/10"."""
    numerator, _, denominator = value.partition("/")
    try:
        return f"{round(float(numerator) / float(denominator or 1) * ratio * 1000)}/1000"
    except (ValueError, OverflowError, ZeroDivisionError):
        return value


def _decode(xmp: bytes) -> str:
    """UTF-8, as good as always; an encoding with zeros is told by them."""
    if b"\0" in xmp[:64]:
        order = "utf-16-be" if xmp[:1] == b"\0" or xmp[:2] == b"\xfe\xff" else "utf-16-le"
        return xmp.decode(order, "replace").replace("\0", "").lstrip("\ufeff")
    return xmp.decode("utf-8", "replace").rstrip("\0")


def _prefixes(text: str, usual: str) -> list[str]:
    """What the packet calls the namespace."""
    found = re.findall(rf"xmlns:({_ANY})\s*=\s*[\"']{re.escape(_NAMESPACES[usual])}[\"']", text)
    return list(dict.fromkeys(found)) or [usual]


def _attribute(prefix: str, name: str) -> str:
    return rf"\s+{re.escape(prefix)}:{name}\s*=\s*(?P<value>\"[^\"]*\"|'[^']*')"


def _element(prefix: str, name: str) -> str:
    tag = rf"(?P<tag>{re.escape(prefix)}:{name})"
    return rf"<{tag}(?:\s[^<>]*?)?(?:/>|>(?P<value>(?s:.*?))</(?P=tag)\s*>)"


def _remove(text: str, usual: str, name: str) -> str:
    for prefix in _prefixes(text, usual):
        text = re.sub(_element(prefix, name), "", re.sub(_attribute(prefix, name), "", text))
    return text


def _change(text: str, usual: str, name: str, new_value: Callable[[str], str]) -> str:
    for prefix in _prefixes(text, usual):
        text = _substitute(text, prefix, name, new_value)
    return text


def _substitute(text: str, prefix: str, name: str, new_value: Callable[[str], str]) -> str:
    def change(found: re.Match[str]) -> str:
        if found["value"] is None:
            return found[0]
        start, end = (place - found.start() for place in found.span("value"))
        quote = found["value"][:1] if found["value"][:1] in ("'", '"') else ""
        bare = found["value"].strip("\"' \t\r\n")
        return f"{found[0][:start]}{quote}{new_value(bare)}{quote}{found[0][end:]}"

    return re.sub(_element(prefix, name), change, re.sub(_attribute(prefix, name), change, text))
