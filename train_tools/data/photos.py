"""Random crops from a folder of photographs, each of them at several sizes.

A camera's file at full size is often soft; reduced by 2 it is sharp. Each photograph is therefore there at every size
between `SHORTEST_EDGE` and `LONGEST_EDGE`, halving, and a crop takes one of them at random, weighted by its edge.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
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
from .unreadable import FilesOfASet

LONGEST_EDGE = 2200
SHORTEST_EDGE = 280
FLAT_SHARE = 0.1
"""Of the crops, so many come as they are; the others are drawn again if they have no texture, as skies teach little."""
CACHE_BYTES = 512 * 2**20
"""Decoded photographs a process keeps: some forty of 12 megapixels at all sizes."""


class PhotoFolder(FilesOfASet):
    """The photographs below `folder` at all sizes that hold a crop of `size`; decoded when needed.

    cache_bytes bounds the decoded ones in memory; None keeps them all.
    A file that cannot be read is passed over, see `Unreadable`: another crop is drawn with the same generator.
    """

    def __init__(self, folder: Path, size: int, cache_bytes: int | None = CACHE_BYTES) -> None:
        self.size, self.paths = size, photo_paths(folder)
        super().__init__(folder, len(self.paths))
        self.entries = [(i, *level) for i, path in enumerate(self.paths) for level in self._levels_of(path)]
        self.cache = PixelCache(cache_bytes)
        self._weigh()

    def cut(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop (size, size, 3), one in ten as it comes, the others with texture.

        Raises ConfigError for too many files that cannot be read.
        """
        if rng.random() < FLAT_SHARE:
            return self.window(rng)
        return textured_crop(lambda: self.window(rng))

    def window(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop (size, size, 3), whatever is in it. Raises as `cut`."""
        while True:
            level = min(int(np.searchsorted(self.cumulative, rng.random(), side="right")), len(self.entries) - 1)
            pixels = self.cache.get(level)
            if pixels is None:
                photo, factor, _ = self.entries[level]
                pixels = self._read(self.paths[photo], factor)
                if pixels is None:
                    self.unreadable.refuse(str(self.paths[i]) for i, *_ in self.entries)
                    continue
                self.cache.put(level, pixels)
            return random_window(pixels, self.size, rng)

    def photographs(self) -> dict[str, Path]:
        """Those that crops come from: name below the folder -> file."""
        return {self._name(path): path for path in (self.paths[i] for i, *_ in self.entries)}

    def leave_out(self, names: Collection[str]) -> None:
        """Take no crop from these. Raises ConfigError where no other is left."""
        self.entries = [entry for entry in self.entries if self._name(self.paths[entry[0]]) not in names]
        self.cache = PixelCache(self.cache.limit)
        self._weigh()

    def _weigh(self) -> None:
        if not self.entries:
            raise ConfigError(f"'{self.folder}': expected photographs of {self.size} pixels and more, all are smaller.")
        edges = np.array([edge for *_, edge in self.entries])
        self.cumulative = np.cumsum(edges) / edges.sum()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _levels_of(self, path: Path) -> list[tuple[float, float]]:
        try:
            return _levels(path, self.size)
        except ConfigError as error:
            self.unreadable.add(str(path), str(error))
            return []

    def _read(self, path: Path, factor: float) -> Pixels | None:
        if str(path) in self.unreadable.reasons:
            return None
        try:
            return reduce_pixels(read_pixels(path), factor)
        except ConfigError as error:
            self.unreadable.add(str(path), str(error))
            return None


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
        for reason in self.source.take_unreadable().values():
            print(f"Skipped: {reason}", file=sys.stderr)
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

    def photographs(self) -> dict[str, Path]:
        """Name -> a file to look at it in, of each photograph that crops come from."""
        ...

    def leave_out(self, names: Collection[str]) -> None:
        """Take no crop from these photographs."""
        ...

    def take_unreadable(self) -> dict[str, str]:
        """Files found unreadable since the last call, each with the reason."""
        ...

    def refuse_unreadable(self, found: Mapping[str, str]) -> None:
        """Count what other processes have found. Raises ConfigError for too many."""
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
