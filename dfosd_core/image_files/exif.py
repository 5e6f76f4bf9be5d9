"""EXIF (CIPA DC-008): what of it stays true for the upscaled image, with its sizes and points."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

CAMERA_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
ORIENTATION, USER_COMMENT = 274, 0x9286
# Description, make, model, software, date, artist, host, white point and primaries, rating, copyright, Windows' XP
# fields. In a TIFF all other tags describe how its own samples are stored.
_KEPT_TAGS = (270, 271, 272, 305, 306, 315, 316, 318, 319, 18246, 18249, 33432, *range(40091, 40096))
ASCII_TAGS = (270, 271, 272, 305, 306, 315, 33432)
_RESOLUTION, _UNIT = (282, 283), 296
_SIZES, _FOCAL_PLANE, _SUBJECT = (0xA002, 0xA003), (0xA20E, 0xA20F), (0x9214, 0xA214)


def load_exif(data: bytes) -> Image.Exif:
    """Raises what Pillow raises over damaged EXIF, which is nearly anything."""
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif.load(data)
        if data and not len(exif):
            raise ValueError("it has no entries")
    return exif


def orientation_of(exif: Image.Exif) -> int:
    """1 to 8; 1 for what is none."""
    value = exif.get(ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def kept_exif(source: Image.Exif, size: tuple[int, int], orientation: int) -> bytes | None:
    """`Exif\\0\\0` and a TIFF structure for an image turned upright to (height, width) `size`: sizes and points are of
    it; orientation, thumbnail and what describes the file's own samples are left out.

    Raises what Pillow raises over damaged EXIF.
    """
    kept = Image.Exif()
    kept.update(_as_stored({tag: source[tag] for tag in _KEPT_TAGS if tag in source}))
    if str(kept.get(270, "")).startswith('{"shape":'):  # a library's note about the array that was
        del kept[270]
    camera = _as_stored(source.get_ifd(CAMERA_IFD))
    interoperability = dict(source.get_ifd(_INTEROP_IFD)) if _INTEROP_IFD in camera else {}
    camera.pop(_INTEROP_IFD, None)
    if 1 in interoperability:  # the others describe a file beside this one
        camera[_INTEROP_IFD] = {tag: interoperability[tag] for tag in (1, 2) if tag in interoperability}
    for tag, length in zip(_SIZES, reversed(size), strict=True):
        if tag in camera:
            camera[tag] = length
    if orientation >= 5 and all(tag in camera for tag in _FOCAL_PLANE):
        across, down = _FOCAL_PLANE
        camera[across], camera[down] = camera[down], camera[across]
    _change_points(camera, lambda points: _turned(points, size, orientation))
    for tag, ifd in ((CAMERA_IFD, camera), (_GPS_IFD, dict(source.get_ifd(_GPS_IFD)))):
        if ifd:
            kept[tag] = ifd
    return kept.tobytes() if len(kept) else None


def scaled_exif(exif: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Of an image that was (height, width) `old` and is `new`."""
    down, across = new[0] / old[0], new[1] / old[1]

    def scale(points: tuple[int, ...]) -> tuple[int, ...]:
        ratios = (across, down, across, down) if len(points) != 3 else (across, down, across)
        return tuple(round(value * ratio) for value, ratio in zip(points, ratios, strict=False))

    def change(camera: dict[int, Any]) -> None:
        for tag, length in zip(_SIZES, reversed(new), strict=True):
            if tag in camera:
                camera[tag] = length
        for tag, ratio in zip(_FOCAL_PLANE, (across, down), strict=True):
            if tag in camera:
                camera[tag] = IFDRational(float(camera[tag]) * ratio)
        _change_points(camera, scale)

    return _changed(exif, {}, change)


def exif_of_part(exif: bytes, size: tuple[int, int]) -> bytes:
    """Of an image that was cut, or given bars, to (height, width) `size`: without points in it."""

    def change(camera: dict[int, Any]) -> None:
        for tag, length in zip(_SIZES, reversed(size), strict=True):
            if tag in camera:
                camera[tag] = length
        for tag in _SUBJECT:
            camera.pop(tag, None)

    return _changed(exif, {}, change)


def with_entries(exif: bytes | None, entries: Mapping[int, Any], camera_entries: Mapping[int, Any]) -> bytes:
    """EXIF with more entries in its first and in its camera's directory."""
    return _changed(exif or b"", entries, lambda camera: camera.update(camera_entries))


def resolution_of(exif: Image.Exif) -> tuple[Any, Any] | None:
    """Dots an inch, across and down, as far as stated."""
    if any(tag not in exif for tag in _RESOLUTION) or exif.get(_UNIT, 2) not in (2, 3):
        return None
    per_inch = 2.54 if exif.get(_UNIT, 2) == 3 else 1
    return exif[282] * per_inch, exif[283] * per_inch


def resolution_entries(dpi: tuple[float, float]) -> dict[int, Any]:
    """The inverse."""
    return {282: IFDRational(dpi[0]), 283: IFDRational(dpi[1]), _UNIT: 2}


def entries_of(exif: bytes) -> dict[int, Any]:
    """All that `kept_exif` has kept, its directories as dictionaries in it: as Pillow's writers take them."""
    source = load_exif(exif)
    camera, position = _as_stored(source.get_ifd(CAMERA_IFD)), dict(source.get_ifd(_GPS_IFD))
    if _INTEROP_IFD in camera:
        camera[_INTEROP_IFD] = dict(source.get_ifd(_INTEROP_IFD))
    entries = _as_stored({tag: source[tag] for tag in source if tag not in (CAMERA_IFD, _GPS_IFD)})
    return entries | ({CAMERA_IFD: camera} if camera else {}) | ({_GPS_IFD: position} if position else {})


def _changed(exif: bytes, more: Mapping[int, Any], change: Callable[[dict[int, Any]], None]) -> bytes:
    entries, result = entries_of(exif), Image.Exif()
    camera = entries.pop(CAMERA_IFD, {})
    change(camera)
    result.update(entries | dict(more) | ({CAMERA_IFD: camera} if camera else {}))
    return result.tobytes()


def _as_stored(ifd: Mapping[int, Any]) -> dict[int, Any]:
    """Pillow reads texts as Latin-1 and writes them as ASCII: what is more goes as the bytes that were there."""
    return {
        tag: value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value
        for tag, value in ifd.items()
    }


def _change_points(camera: dict[int, Any], change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    """Subject area and location: x and y, then a diameter, or width and height."""
    for tag in _SUBJECT:
        points = camera.get(tag)
        if points is None:
            continue
        good = isinstance(points, tuple) and len(points) in (2, 3, 4) and all(isinstance(p, int) for p in points)
        changed = change(points) if good else (-1,)
        if all(0 <= value < 65536 for value in changed):
            camera[tag] = changed
        else:
            del camera[tag]


def _turned(points: tuple[int, ...], size: tuple[int, int], orientation: int) -> tuple[int, ...]:
    """From the image as stored, which EXIF means, to the upright one of (height, width) `size`."""
    x, y, *extent = points
    if orientation >= 5:
        x, y, extent = y, x, extent[::-1]
    if orientation in (2, 3, 6, 7):
        x = size[1] - x
    if orientation in (3, 4, 7, 8):
        y = size[0] - y
    return x, y, *extent
