"""The Paeth filter, value by value, against the PNG specification's own words (section 9.4)."""

from __future__ import annotations

import numpy as np

from dfosd_core.image_files.png_write import _paeth


def predictor(a: int, b: int, c: int) -> int:
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    if pa <= pb and pa <= pc:
        return a
    return b if pb <= pc else c


def test_every_neighbourhood_of_a_few_values_and_many_others() -> None:
    """Ties are broken in the order left, above, corner: a decoder relies on it."""
    few = np.array([0, 1, 2, 3, 100, 127, 128, 254, 255], np.uint8)
    grid = np.stack(np.meshgrid(few, few, few)).reshape(3, -1)
    more = np.random.default_rng(0).integers(0, 256, (3, 20_000), np.uint8)
    a, b, c = np.concatenate([grid, more], axis=1)
    expected = [predictor(*map(int, values)) for values in zip(a, b, c, strict=True)]
    assert _paeth(a, b, c).tolist() == expected
    to_left, to_above = np.abs(b.astype(int) - c), np.abs(a.astype(int) - c)
    assert ((to_left == to_above) & (a != b)).sum() > 40, "ties"
