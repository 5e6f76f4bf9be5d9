"""XMP packets (ISO 16684-1) as text: what an upscaled image makes wrong is changed or removed, the rest stays.

Properties are attributes or elements; a packet may call their namespaces as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

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
_TAG = re.compile(rf"<(/?)({_ANY}:{_ANY})([^<>]*)>")
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
    stated: list[str] = []
    _change(text, "tiff", "Orientation", lambda value: stated.append(value) or value)
    return int(stated[0]) if stated and stated[0] in tuple("12345678") else 1


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


def xmp_of_part(xmp: bytes, size: tuple[int, int]) -> bytes:
    """Of an image that was cut, or given bars, to (height, width) `size`: without places in it."""
    text = _remove(_remove(_decode(xmp), "mwg-rs", "Regions"), "GPano", _ANY)
    for axis in (0, 1):
        for prefix, name in _SIZES[axis]:
            text = _change(text, prefix, name, lambda _, length=size[axis]: str(length))
    return text.encode()


def _with_region_sizes(text: str, old: tuple[int, int], new: tuple[int, int]) -> str:
    """Face regions are fractions of a size that they state."""

    def change(dimensions: str) -> str:
        for axis, name in ((0, "h"), (1, "w")):
            dimensions = _change(
                dimensions, "stDim", name, lambda value, axis=axis: _scaled(value, new[axis] / old[axis])
            )
        return dimensions

    return _replace(text, [(span[0], span[3]) for span in _elements(text, "mwg-rs", "AppliedToDimensions")], change)


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
    return rf"\s{re.escape(prefix)}:(?:{name})\s*=\s*(\"[^\"]*\"|'[^']*')"


def _elements(text: str, usual: str, name: str) -> Iterator[tuple[int, int, int, int]]:
    """Where each begins, its content begins and ends, and it ends; an empty one's content is nothing.

    No pattern spans an element: one that is never closed would make each search go through all the rest.
    """
    wanted = re.compile("|".join(rf"{re.escape(prefix)}:(?:{name})" for prefix in _prefixes(text, usual)))
    opened: dict[str, list[tuple[int, int]]] = {}
    for tag in _TAG.finditer(text):
        if not wanted.fullmatch(tag[2]):
            continue
        if tag[1]:
            if opened.get(tag[2]):
                start, content = opened[tag[2]].pop()
                yield start, content, tag.start(), tag.end()
        elif tag[3].endswith("/"):
            yield tag.start(), tag.end(), tag.end(), tag.end()
        else:
            opened.setdefault(tag[2], []).append(tag.span())


def _replace(text: str, spans: Iterable[tuple[int, int]], new: Callable[[str], str]) -> str:
    """Each span that lies in no other by what `new` makes of it."""
    parts: list[str] = []
    place = 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= place:
            parts += [text[place:start], new(text[start:end])]
            place = end
    return "".join((*parts, text[place:]))


def _remove(text: str, usual: str, name: str) -> str:
    for prefix in _prefixes(text, usual):
        text = re.sub(_attribute(prefix, name), "", text)
    return _replace(text, [(span[0], span[3]) for span in _elements(text, usual, name)], lambda _: "")


def _change(text: str, usual: str, name: str, new_value: Callable[[str], str]) -> str:
    for prefix in _prefixes(text, usual):
        spans = [found.span(1) for found in re.finditer(_attribute(prefix, name), text)]
        text = _replace(text, spans, lambda value: value[0] + new_value(value[1:-1].strip()) + value[0])
    plain = [(start, end) for _, start, end, _ in _elements(text, usual, name) if "<" not in text[start:end]]
    return _replace(text, [span for span in plain if span[0] < span[1]], lambda value: new_value(value.strip()))
