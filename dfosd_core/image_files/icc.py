"""ICC profiles of one curve and, for colour, three primaries (ICC.1:2022): made, and taken from grey to colour."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of white, red, green and blue."""
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def curve(*parameters: float) -> bytes:
    """A decoding curve: an exponent, or g, a, b, c, d of (a x + b)^g, and c x below d."""
    kind = {1: 0, 5: 3}[len(parameters)]
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(parameters)


def make_profile(name: str, decoding: bytes, primaries: Sequence[float] | None) -> bytes:
    """`decoding` is a curve; `primaries` as in SRGB_PRIMARIES, None for grey."""
    tags = {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50)}
    if primaries is None:
        return _assemble(b"GRAY", {**tags, b"kTRC": decoding})
    to_d50, columns = _matrices(primaries)
    tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(to_d50.ravel())
    tags |= {kind: _xyz(column) for kind, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)}
    return _assemble(b"RGB ", {**tags, b"rTRC": decoding, b"gTRC": decoding, b"bTRC": decoding})


def color_from_grey(profile: bytes) -> bytes | None:
    """A colour profile that shows equal channels as the grey `profile` shows grey. None if it has no curve."""
    decoding = _tags_of(profile).get(b"kTRC")
    return make_profile("Grey as RGB", decoding, SRGB_PRIMARIES) if decoding else None


def grey_from_color(profile: bytes) -> bytes | None:
    """The inverse, for grey samples that come with a colour profile. None if its channels have no one curve."""
    tags = _tags_of(profile)
    curves = {tags.get(kind) for kind in (b"rTRC", b"gTRC", b"bTRC")}
    decoding = curves.pop()
    return make_profile("RGB as grey", decoding, None) if decoding and not curves else None


def space_of(profile: bytes) -> bytes:
    """b"RGB ", b"GRAY", b"CMYK" ...: of what samples it is. Empty for what is no profile."""
    return profile[16:20] if len(profile) > 132 and profile[36:40] == b"acsp" else b""


def _tags_of(profile: bytes) -> dict[bytes, bytes]:
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 200))]
    except struct.error:
        return {}
    return {kind: profile[start : start + size] for kind, start, size in entries}


def _matrices(primaries: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """White to D50 (Bradford), and the primaries' XYZ as columns, adapted to it."""
    points = np.reshape(primaries, (4, 2))
    white, *colors = ((x / y, 1.0, (1 - x - y) / y) for x, y in points)
    columns = np.transpose(colors)
    columns = columns * np.linalg.solve(columns, white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    to_d50 = np.linalg.solve(_BRADFORD, cones @ _BRADFORD)
    return to_d50, to_d50 @ columns


def _assemble(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for kind, content in tags.items():
        table += struct.pack(">4sII", kind, start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x04300000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + _fixed(_D50)
    return head.ljust(128, b"\0") + table + body


def _fixed(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    """Numbers with 16 bits behind the point."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _xyz(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded
