"""A decoded image: its samples, and the metadata that the upscaled image keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .icc import color_from_grey
from .metadata import ImageMetadata

Samples = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """Samples (H, W, C), upright: C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; uint8 or uint16."""

    samples: Samples
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    sequence: Sequence | None = None
    """What comes after it, where it is the first of an animation's frames or a document's pages."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.samples.shape[0], self.samples.shape[1]

    @property
    def is_grey(self) -> bool:
        """One channel of light and not three."""
        return self.samples.shape[2] < 3

    @property
    def has_alpha(self) -> bool:
        """The last channel is opacity."""
        return self.samples.shape[2] in (2, 4)

    @property
    def is_16_bit(self) -> bool:
        """16 bits a sample."""
        return self.samples.dtype == np.uint16

    @property
    def has_transparency(self) -> bool:
        """Some pixel is not fully opaque."""
        return self.has_alpha and bool((self.samples[..., -1] < np.iinfo(self.samples.dtype).max).any())

    def without_alpha(self) -> Picture:
        """The same light, opaque."""
        return replace(self, samples=self.samples[..., :-1]) if self.has_alpha else self

    def with_hard_alpha(self) -> Picture:
        """Fully opaque or not at all; opaque from one half."""
        if not self.has_alpha:
            return self
        top = np.iinfo(self.samples.dtype).max
        samples = self.samples.copy()
        samples[..., -1] = np.where(samples[..., -1] > top // 2, top, 0)
        return replace(self, samples=samples)

    def with_three_colors(self) -> Picture:
        """Grey repeated into red, green and blue, with a profile that shows them as the grey's did."""
        if not self.is_grey:
            return self
        samples = self.samples[..., [0, 0, 0, 1] if self.has_alpha else [0, 0, 0]]
        profile = self.metadata.icc_profile
        metadata = replace(self.metadata, icc_profile=color_from_grey(profile)) if profile else self.metadata
        return replace(self, samples=samples, metadata=metadata)

    def to_8_bit(self) -> Picture:
        """8 bits a sample, rounded to nearest."""
        if not self.is_16_bit:
            return self
        return replace(self, samples=((self.samples.astype(np.uint32) + 128) // 257).astype(np.uint8))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """The frames after an animation's first, or the pages after a document's."""

    following: tuple[Picture, ...]
    durations: tuple[float, ...] = ()
    """Of all frames, the first one's too, in milliseconds. Empty for pages."""
    plays: int = 0
    """How often an animation is shown; 0 is for ever."""

    @property
    def is_animation(self) -> bool:
        """Frames, and not pages."""
        return bool(self.durations)

    def __str__(self) -> str:
        return f"{len(self.following) + 1} {'frames' if self.is_animation else 'pages'}"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file whose head has been read: `decode` gives its picture, upright and of `size` (height, width)."""

    size: tuple[int, int]
    decode: Callable[[], Picture]
    pictures: int = 1
    """Frames or pages. Of more than one, `decode` gives the first with the sequence of the others."""


def add_alpha(light: Samples, transparent: int | tuple[int, ...]) -> Samples:
    """(H, W, 1 or 3) with an opacity that is 0 where the samples are `transparent`, as a PNG's tRNS chunk says it."""
    opaque = (light != np.array(transparent, dtype=np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([light, opaque.astype(light.dtype) * np.iinfo(light.dtype).max], axis=2)


def fit(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) of `size` reduced to a longer edge of at most `longest`, at least 1."""
    ratio = min(1.0, longest / max(size))
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def turn_upright(samples: Samples, orientation: int) -> Samples:
    """Undo an EXIF orientation, 1 to 8; anything else counts as 1."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples
