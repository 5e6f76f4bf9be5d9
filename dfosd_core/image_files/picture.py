"""A decoded image file: its samples, and what travels from the file read to the file written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Metadata that the output keeps. None and empty: the input had none."""

    icc_profile: bytes | None = None
    """Fits the samples: a grey profile for grey, an RGB profile for colour."""
    exif: bytes | None = None
    """`Exif\\0\\0` and a TIFF structure, without what would be wrong now: orientation, sizes, thumbnail."""
    xmp: bytes | None = None
    """An XMP packet, without an orientation."""
    dpi: tuple[float, float] | None = None
    """Dots an inch, across and down: as in the input, so the print gets larger and not finer."""
    text: tuple[tuple[str, str], ...] = ()
    """A PNG's text entries, which other PNGs take over."""
    comment: bytes | None = None
    """A JPEG's comment, which other JPEGs take over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """Samples (H, W, C), upright: C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; uint8 or uint16."""

    samples: Samples
    carried: Carried = Carried()

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
    def is_deep(self) -> bool:
        """16 bits a sample."""
        return self.samples.dtype == np.uint16

    @property
    def is_see_through(self) -> bool:
        """Some pixel is not fully opaque."""
        return self.has_alpha and bool((self.samples[..., -1] < np.iinfo(self.samples.dtype).max).any())

    def without_alpha(self) -> Picture:
        """The same light, opaque."""
        return replace(self, samples=self.samples[..., :-1]) if self.has_alpha else self

    def with_three_colors(self) -> Picture:
        """Grey repeated into red, green and blue."""
        if not self.is_grey:
            return self
        return replace(self, samples=self.samples[..., [0, 0, 0, 1] if self.has_alpha else [0, 0, 0]])

    def shallow(self) -> Picture:
        """8 bits a sample, rounded to nearest."""
        if not self.is_deep:
            return self
        return replace(self, samples=((self.samples.astype(np.uint32) + 128) // 257).astype(np.uint8))


def turn_upright(samples: Samples, orientation: int) -> Samples:
    """Undo an EXIF orientation, 1 to 8; anything else counts as 1."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples
