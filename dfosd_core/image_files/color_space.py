"""Colour that a file states without an ICC profile: PNG's chunks, AVIF's code points, EXIF's mark of Adobe RGB.

PNG files take over PNG's chunks; all other formats get a profile that says the same.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

from .icc import SRGB_CURVE, SRGB_PRIMARIES, curve, make_profile

COLOR_CHUNKS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8}
"""PNG's chunks about colour besides its profile, and their lengths. Of the first three, the first given counts."""
ColorChunks = Mapping[bytes, bytes]

_D65 = SRGB_PRIMARIES[:2]
_C = (0.31, 0.316)
_PRIMARIES = {  # the numbers of ITU-T H.273
    1: SRGB_PRIMARIES,
    2: SRGB_PRIMARIES,  # not stated
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*_D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}
_BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES = {
    1: _BT709,
    2: SRGB_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _BT709,
    8: (1.0,),
    13: SRGB_CURVE,
    14: _BT709,
    15: _BT709,
}
_HDR = {16: "PQ", 18: "HLG"}
_ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def chunks_of_pil(info: Mapping[str, Any]) -> dict[bytes, bytes]:
    """PNG's chunks as far as Pillow has read them into an image's `info`."""
    chunks: dict[bytes, bytes] = {}
    try:
        if "gamma" in info:
            chunks[b"gAMA"] = struct.pack(">I", round(info["gamma"] * 100000))
        if "chromaticity" in info:
            chunks[b"cHRM"] = struct.pack(">8I", *(round(value * 100000) for value in info["chromaticity"]))
        if "srgb" in info:
            chunks[b"sRGB"] = struct.pack(">B", info["srgb"])
    except (TypeError, ValueError, struct.error):
        return {}
    return chunks


def chunks_of_box(data: bytes) -> dict[bytes, bytes]:
    """What the colour box of an AVIF or HEIC file says (ISO 23091-2), as PNG's chunk for the same."""
    start = data.find(b"colrnclx")
    if start < 0 or len(data) < start + 15:
        return {}
    primaries, transfer = struct.unpack_from(">HH", data, start + 8)
    if primaries not in _PRIMARIES or transfer not in (*_CURVES, *_HDR) or (primaries, transfer) in _PLAIN:
        return {}
    return {b"cICP": bytes((primaries, transfer, 0, 1))}


_PLAIN = {(primaries, transfer) for primaries in (1, 2) for transfer in (1, 2, 6, 13)}
"""What is shown as sRGB by everybody: AVIF's writers use all of them for it."""


def profile_of(chunks: ColorChunks, *, is_grey: bool) -> bytes | None:
    """A profile for formats that do not have PNG's chunks. None: the samples are sRGB, or no profile can say it."""
    if b"cICP" in chunks:
        primaries, transfer = chunks[b"cICP"][:2]
        if primaries not in _PRIMARIES or transfer not in _CURVES or (primaries, transfer) in _PLAIN:
            return None
        return _make(_CURVES[transfer], _PRIMARIES[primaries], is_grey=is_grey)
    if b"sRGB" in chunks or not chunks.keys() & {b"gAMA", b"cHRM"}:
        return None
    primaries = _chromaticity(chunks)
    decoding = SRGB_CURVE
    if b"gAMA" in chunks:
        (gamma,) = struct.unpack(">I", chunks[b"gAMA"])
        if gamma and abs(gamma / 45455 - 1) > 0.01:  # that number has stood for sRGB since before there was a chunk
            decoding = (100000 / gamma,)
    if decoding == SRGB_CURVE and (is_grey or max(abs(a - b) for a, b in zip(primaries, SRGB_PRIMARIES)) < 0.002):  # noqa: B905
        return None
    return _make(decoding, primaries, is_grey=is_grey)


def what_only_png_holds(chunks: ColorChunks) -> str | None:
    """What no profile can say of it, in a word; None if `profile_of` says all."""
    if b"cICP" not in chunks:
        return None
    primaries, transfer, _, is_full_range = chunks[b"cICP"]
    if transfer in _HDR:
        return f"{_HDR[transfer]} colours"
    if not is_full_range or primaries not in _PRIMARIES or transfer not in _CURVES:
        return f"colours (cICP {'-'.join(map(str, chunks[b'cICP']))})"
    return None


def is_adobe_rgb(exif: Image.Exif) -> bool:
    """The mark that cameras set in place of a profile (DCF 2.0): no known space, and interoperability "R03"."""
    space = exif.get_ifd(0x8769).get(0xA001)
    if space != 65535 or 0xA005 not in exif.get_ifd(0x8769):
        return space == 2  # of no standard, and meant so
    return str(exif.get_ifd(0xA005).get(1, "")).startswith("R03")


def adobe_rgb(*, is_grey: bool) -> bytes:
    """A profile of the same curve and primaries as Adobe RGB (1998)."""
    return _make((563 / 256,), _ADOBE_RGB, is_grey=is_grey, name="Compatible with Adobe RGB (1998)")


def _chromaticity(chunks: ColorChunks) -> tuple[float, ...]:
    values = tuple(value / 100000 for value in struct.unpack(">8I", chunks.get(b"cHRM", b"\0" * 32)))
    red, green, blue = (values[i : i + 2] for i in (2, 4, 6))
    area = (green[0] - red[0]) * (blue[1] - red[1]) - (blue[0] - red[0]) * (green[1] - red[1])
    return values if all(values[1::2]) and abs(area) > 1e-4 else SRGB_PRIMARIES


def _make(
    decoding: tuple[float, ...], primaries: tuple[float, ...], *, is_grey: bool, name: str = "As the input states"
) -> bytes:
    return make_profile(name, curve(*decoding), None if is_grey else primaries)
