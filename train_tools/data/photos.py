"""Random crops from a folder of photographs, each of them at several sizes.

A camera's file at full size is often soft; reduced by 2 it is sharp. Each photograph is therefore there at every size
between `SHORTEST_EDGE` and `LONGEST_EDGE`, halving, and a crop takes one of them at random, weighted by its edge.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfosd_core import images
from dfosd_core.errors import ConfigError, ImageFileError
from dfosd_core.image_files import READABLE_SUFFIXES, is_image_name
from dfosd_core.image_files.read import read_image

from .texture import Pixels, textured_crop

LONGEST_EDGE = 2200
SHORTEST_EDGE = 280
FLAT_SHARE = 0.1
"""Of the crops, so many come as they are; the others are drawn again if they have no texture, as skies teach little."""
CACHE_BYTES = 512 * 2**20
"""Decoded photographs a process keeps: some forty of 12 megapixels at all sizes."""


class PhotoFolder:
    """The photographs below `folder` at all sizes that hold a crop of `size`; decoded when needed.

    cache_bytes bounds the decoded ones in memory; None keeps them all.
    Raises ConfigError, at once or at the first crop from it, for a file that cannot be read.
    """

    def __init__(self, folder: Path, size: int, cache_bytes: int | None = CACHE_BYTES) -> None:
        self.paths = photo_paths(folder)
        self.size = size
        entries = [(i, *level) for i, path in enumerate(self.paths) for level in _levels(path, size)]
        if not entries:
            raise ConfigError(f"'{folder}': expected photographs of {size} pixels and more, all are smaller.")
        self.levels = [(photo, factor) for photo, factor, _ in entries]
        edges = np.array([edge for *_, edge in entries])
        self.cumulative = np.cumsum(edges) / edges.sum()
        self.cache = PixelCache(cache_bytes)

    def cut(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop (size, size, 3), one in ten as it comes, the others with texture."""
        if rng.random() < FLAT_SHARE:
            return self.window(rng)
        return textured_crop(lambda: self.window(rng))

    def window(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop (size, size, 3), whatever is in it."""
        level = min(int(np.searchsorted(self.cumulative, rng.random(), side="right")), len(self.levels) - 1)
        pixels = self.cache.get(level)
        if pixels is None:
            photo, factor = self.levels[level]
            pixels = reduce_pixels(read_pixels(self.paths[photo]), factor)
            self.cache.put(level, pixels)
        return random_window(pixels, self.size, rng)


class PixelCache:
    """The pixels used last, up to a number of bytes."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.held = limit, 0
        self.entries: OrderedDict[int, Pixels] = OrderedDict()

    def get(self, key: int) -> Pixels | None:
        """The entry, which then counts as the latest."""
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.entries.get(key)

    def put(self, key: int, pixels: Pixels) -> None:
        """Keep it, and drop the oldest while there is too much."""
        self.entries[key] = pixels
        self.held += pixels.nbytes
        while self.limit is not None and self.held > self.limit and len(self.entries) > 1:
            self.held -= self.entries.popitem(last=False)[1].nbytes


class PhotoCrops:
    """Draws batches of crops of photographs held in memory, one after the other. Deterministic for a seed."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.source = PhotoFolder(folder, size, cache_bytes=None)
        self.rng = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """Return `count` crops (count, 3, size, size) in [0, 1], flipped and turned at random."""
        crops = np.stack([self._crop() for _ in range(count)])
        return images.to_bchw(torch.from_numpy(crops)).float().div_(255)

    def _crop(self) -> Pixels:
        crop = np.rot90(self._choose(), int(self.rng.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if self.rng.integers(2) else crop)

    def _choose(self) -> Pixels:
        """One crop in ten as it comes, so that flat areas stay flat; of the others, half are the richer of two."""
        if self.rng.random() < FLAT_SHARE:
            return self.source.window(self.rng)
        crops = [textured_crop(lambda: self.source.window(self.rng)) for _ in range(int(self.rng.integers(1, 3)))]
        return max(crops, key=_detail)


def _detail(crop: Pixels) -> float:
    """Mean difference of neighbouring grey levels."""
    grey = crop.mean(axis=-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


class CropSource(Protocol):
    """Where crops come from."""

    def cut(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop."""
        ...


def random_window(pixels: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A square of `size`, anywhere in pixels, which are at least as large."""
    top = int(rng.integers(pixels.shape[0] - size + 1))
    left = int(rng.integers(pixels.shape[1] - size + 1))
    return pixels[top : top + size, left : left + size]


def photo_paths(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted. Raises ConfigError where there are none."""
    if not folder.is_dir():
        raise ConfigError(f"There is no folder '{folder}': expected one with photographs.")
    paths = sorted(p for p in folder.rglob("*") if is_image_name(p))
    if not paths:
        raise ConfigError(f"No photographs in '{folder}': expected files ending in {', '.join(READABLE_SUFFIXES)}.")
    return paths


def read_pixels(path: Path) -> Pixels:
    """Decode a file of any kind `dfosd upscale` takes: upright, 8 bits, opaque. Raises ConfigError, one line."""
    try:
        picture = read_image(path)
    except ImageFileError as error:
        raise _unreadable(str(error)) from error
    samples = picture.without_alpha().with_three_colors().to_8_bit().samples
    return np.ascontiguousarray(samples, dtype=np.uint8)


def reduce_pixels(pixels: Pixels, factor: float) -> Pixels:
    """Resize by a factor of at most 1."""
    if factor == 1:
        return pixels
    height, width = (round(edge * factor) for edge in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))


def _levels(path: Path, size: int) -> list[tuple[float, float]]:
    """Factors at which a photograph is used, each with the mean edge it then has."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(f"'{path}' is damaged or no image.") from error
    levels: list[tuple[float, float]] = []
    factor = min(1.0, LONGEST_EDGE / max(width, height))
    while round(factor * min(width, height)) >= size and (factor * min(width, height) >= SHORTEST_EDGE or not levels):
        levels.append((factor, factor * float(np.sqrt(width * height))))
        factor /= 2
    return levels


def _unreadable(reason: str) -> ConfigError:
    return ConfigError(
        f"{reason} Move it out of the folder, or let `python -m train_tools.prepare_data` sort the folder out."
    )
