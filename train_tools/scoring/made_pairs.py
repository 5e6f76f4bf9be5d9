"""Pairs made of photographs: the middle of each, and what a degradation leaves of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..data.photos import read_pixels
from .pictures import save_picture, to_picture, to_tensor


def central_crop(path: Path, size: int, multiple: int) -> Tensor:
    """The middle of a photograph as (1, 3, H, W) in [0, 1], at most size x size, sides multiples of `multiple`.

    Photographs are first reduced to twice the size. Raises ConfigError, one line, for what cannot be read.
    """
    image = Image.fromarray(read_pixels(path))
    factor = 2 * size / min(image.size)
    if factor < 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    width, height = (min(size, edge) // multiple * multiple for edge in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return to_tensor(image.crop((left, top, left + width, top + height)))


def write_pair(photograph: Path, folder: Path, stem: str, *, degrade: Any, size: int, rng: np.random.Generator) -> None:
    """Write folder/HR/STEM.png and folder/LR/STEM.png. Raises ConfigError for a photograph that cannot be read.

    degrade: one of `DEGRADATIONS`.
    """
    x_hr = central_crop(photograph, size, degrade.scale)
    save_picture(to_picture(x_hr), folder / "HR" / f"{stem}.png")
    save_picture(to_picture(degrade(x_hr, rng)), folder / "LR" / f"{stem}.png")
