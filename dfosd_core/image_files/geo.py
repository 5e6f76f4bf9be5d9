"""Where on earth the picture of a TIFF lies (GeoTIFF 1.1), for more pixels of the same land."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

GeoTags = tuple[tuple[int, int, tuple[Any, ...] | str], ...]
"""Tag, TIFF's number of its type, values."""

_PIXEL_SCALE, _TIE_POINTS, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_TAGS = (
    _PIXEL_SCALE,
    _TIE_POINTS,
    _MATRIX,
    _KEYS,
    34736,
    34737,
    42112,
    42113,
)  # the last two: GDAL's facts, no-data value
_RASTER_TYPE, _IS_POINT = 1025, 2


def geo_of(tags: Mapping[int, Any], types: Mapping[int, int]) -> GeoTags:
    """From a TIFF's tags, if they say it. Empty if they do not, or are damaged."""
    if _KEYS not in tags:
        return ()
    return tuple((tag, types[tag], tags[tag]) for tag in _TAGS if isinstance(tags.get(tag), (tuple, str)))


def scaled_geo(geo: GeoTags, old: tuple[int, int], new: tuple[int, int]) -> GeoTags:
    """Of an image that was (height, width) `old` and is `new`."""
    values = {tag: value for tag, _, value in geo}
    down, across = new[0] / old[0], new[1] / old[1]
    shift = 0.5 if _is_point(values.get(_KEYS, ())) else 0.0  # places are then of pixels' centres, not their corners
    try:
        return tuple((tag, kind, _scaled(tag, value, (across, down), shift)) for tag, kind, value in geo)
    except (TypeError, ValueError, struct.error):
        return ()


def _is_point(keys: tuple[Any, ...] | str) -> bool:
    entries = [keys[i : i + 4] for i in range(4, len(keys), 4)]
    return any(entry[0] == _RASTER_TYPE and entry[3] == _IS_POINT for entry in entries if len(entry) == 4)


def _scaled(tag: int, value: tuple[Any, ...] | str, ratios: tuple[float, float], shift: float) -> tuple[Any, ...] | str:
    if isinstance(value, str):
        return value
    if tag == _PIXEL_SCALE:
        return value[0] / ratios[0], value[1] / ratios[1], *value[2:]
    if tag == _TIE_POINTS:  # column, row and height in the image, then the place on earth
        return tuple(
            (number + shift) * ratios[i % 6] - shift if i % 6 < 2 else number for i, number in enumerate(value)
        )
    if tag == _MATRIX and len(value) == 16:  # from column and row to the place, row by row
        rows = [value[i : i + 4] for i in range(0, 16, 4)]
        return tuple(
            number
            for a, b, c, d in rows
            for number in (
                a / ratios[0],
                b / ratios[1],
                c,
                d - shift * (a * (1 - 1 / ratios[0]) + b * (1 - 1 / ratios[1])),
            )
        )
    return value
