"""Reading 16-bit samples: Pillow cuts colour down to 8 bits, so OpenCV decodes these."""

from __future__ import annotations

import struct
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageFileError
from .picture import add_alpha, turn_upright

_ORIENTATION = 274
_GREY_INVERTED, _GREY, _RGB = 0, 1, 2


def is_16_bit_file(data: bytes, image: Image.Image) -> bool:
    """Whether the file has 16-bit grey or RGB samples."""
    if image.format == "PNG":
        return data[24] == 16  # bit depth, in the header chunk that comes first
    tags = getattr(image, "tag_v2", {})
    return set(tags.get(258, (1,))) == {16} and tags.get(262) in (_GREY_INVERTED, _GREY, _RGB)


def read_16_bit(data: bytes, image: Image.Image) -> NDArray[np.uint16]:
    """(H, W, C) uint16, upright. Raises what Pillow raises for a damaged file."""
    tags = cast("dict[int, Any]", getattr(image, "tag_v2", {}))
    orientation = tags.get(_ORIENTATION, 1)
    image.load()  # OpenCV fills what a cut-off file lacks with zeros and says nothing: Pillow says it
    if image.format == "PNG":
        orientation = image.getexif().get(_ORIENTATION, 1)
        samples = _png(_opencv(data), color_type=data[25], transparent=image.info.get("transparency"))
    else:
        samples = _tiff(_opencv(_as_stored(data)), tags)
    return cast("NDArray[np.uint16]", turn_upright(samples, orientation))


def _opencv(data: bytes) -> NDArray[np.uint16]:
    """(H, W, 1, 3 or 4), RGB order."""
    try:
        import cv2
    except ImportError as error:
        raise ImageFileError("16-bit colour is read by OpenCV. Install opencv-python-headless.") from error

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        decoded = cast("Any", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    finally:
        cv2.utils.logging.setLogLevel(level)
    if decoded is None or decoded.dtype != np.uint16:
        raise OSError("its 16-bit samples cannot be decoded")
    channels = decoded.shape[2] if decoded.ndim == 3 else 1
    return decoded.reshape(*decoded.shape[:2], channels)[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]]


def _png(samples: NDArray[np.uint16], color_type: int, transparent: object) -> NDArray[np.uint16]:
    """`transparent`: the one grey or colour that the file declares so, if it does."""
    light = samples[..., :1] if color_type in (0, 4) else samples[..., :3]
    if color_type in (4, 6):
        return np.concatenate([light, samples[..., 3:]], axis=2)
    return add_alpha(light, transparent) if isinstance(transparent, (int, tuple)) else light


def _tiff(samples: NDArray[np.uint16], tags: dict[int, Any]) -> NDArray[np.uint16]:
    if tags.get(262) == _GREY_INVERTED:
        samples = 65535 - samples
    if samples.shape[2] < 4:
        return samples
    kind = (tags.get(338) or (0,))[0]
    if kind == 0:  # a fourth channel that is said to be no opacity
        return samples[..., :3]
    if kind == 1:  # premultiplied
        alpha = np.maximum(samples[..., 3:], 1).astype(np.uint32)
        light = np.minimum((samples[..., :3] * np.uint32(65535) + alpha // 2) // alpha, 65535)
        return np.concatenate([light.astype(np.uint16), samples[..., 3:]], axis=2)
    return samples


def _as_stored(data: bytes) -> bytes:
    """The TIFF with orientation 1: OpenCV 5.0 turns half turns itself and fails at quarter turns."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, first = ("Q", 20, 8) if big else ("H", 12, 4)
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, first)
    (entries,) = struct.unpack_from(order + count, data, start)
    start += struct.calcsize(order + count)
    for offset in range(start, start + entries * entry, entry):
        if struct.unpack_from(order + "H", data, offset)[0] == _ORIENTATION:
            value = offset + (12 if big else 8)
            return data[:value] + struct.pack(order + "H", 1) + data[value + 2 :]
    return data
