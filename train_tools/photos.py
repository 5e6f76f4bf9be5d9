"""Random training crops from a handful of large photographs, held in memory at several sizes.

A camera's file at full size is often soft; reduced by 2 it is sharp. Each photograph is therefore kept at every size
between `SHORTEST_EDGE` and `LONGEST_EDGE`, halving, and a crop takes one of them at random, weighted by its area.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dfosd_core import images
from dfosd_core.errors import ConfigError

LONGEST_EDGE = 2200
SHORTEST_EDGE = 280
FLAT = 3.0
"""Crops whose grey levels deviate less than this (of 255) are drawn again: skies teach nothing."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


class PhotoCrops:
    """Draws square crops of photographs. Deterministic for a seed."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise ConfigError(f"No photographs in '{folder}': expected JPEG, PNG, WebP or TIFF files.")
        self.size = size
        self.images = [image for path in paths for image in _sizes(path) if min(image.shape[:2]) >= size]
        areas = np.array([np.sqrt(image.shape[0] * image.shape[1]) for image in self.images])
        self.probabilities = areas / areas.sum()
        self.rng = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """Return `count` crops (count, 3, size, size) in [0, 1], flipped and turned at random."""
        crops = np.stack([self._crop() for _ in range(count)])
        return images.to_bchw(torch.from_numpy(crops)).float().div_(255)

    def _crop(self) -> NDArray[np.uint8]:
        crop = self._cut()
        for _ in range(8):
            if crop.std() >= FLAT:
                break
            crop = self._cut()
        crop = np.rot90(crop, int(self.rng.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if self.rng.integers(2) else crop)

    def _cut(self) -> NDArray[np.uint8]:
        image = self.images[int(self.rng.choice(len(self.images), p=self.probabilities))]
        top = int(self.rng.integers(image.shape[0] - self.size + 1))
        left = int(self.rng.integers(image.shape[1] - self.size + 1))
        return image[top : top + self.size, left : left + self.size]


def _sizes(path: Path) -> list[NDArray[np.uint8]]:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    images: list[NDArray[np.uint8]] = []
    scale = min(1.0, LONGEST_EDGE / max(image.size))
    while scale * min(image.size) >= SHORTEST_EDGE:
        size = (round(image.width * scale), round(image.height * scale))
        resized = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        images.append(np.asarray(resized))
        scale /= 2
    return images
