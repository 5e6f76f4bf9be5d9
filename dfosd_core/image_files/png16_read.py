"""Reading PNGs of 16 bits with colour or alpha: Pillow cuts them down to 8, so OpenCV decodes these."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageFileError
from .picture import Samples, add_alpha

_SILENT = 0
"""OpenCV's LOG_LEVEL_SILENT, which 4 has no name for."""


def is_beyond_pillow(data: bytes) -> bool:
    """Whether a PNG has 16 bits and more than grey. The header chunk, which says it, comes first."""
    return data[24] == 16 and data[25] != 0


def read_16_bit_png(data: bytes, image: Image.Image) -> Samples:
    """(H, W, C) uint16 as stored. `image`: the same file, opened. Raises what Pillow raises for a damaged file."""
    transparent = image.info.get("transparency")
    image.load()  # OpenCV fills what a cut-off file lacks with zeros and says nothing: Pillow says it
    samples, color_type = _opencv(data), data[25]
    light = samples[..., :1] if color_type == 4 else samples[..., :3]
    if color_type in (4, 6):
        return np.concatenate([light, samples[..., 3:]], axis=2)
    return add_alpha(light, transparent) if isinstance(transparent, tuple) else light


def _opencv(data: bytes) -> NDArray[np.uint16]:
    """(H, W, 1, 3 or 4), RGB order."""
    try:
        import cv2
    except ImportError as error:
        raise ImageFileError("has 16 bits a sample, which OpenCV reads. Install opencv-python-headless.") from error

    log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has it there, 4 at the top
    level = log.getLogLevel()
    log.setLogLevel(_SILENT)
    try:
        decoded = cast("Any", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    finally:
        log.setLogLevel(level)
    if decoded is None or decoded.dtype != np.uint16:
        raise OSError("its 16-bit samples cannot be decoded")
    channels = decoded.shape[2] if decoded.ndim == 3 else 1
    return decoded.reshape(*decoded.shape[:2], channels)[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]]
