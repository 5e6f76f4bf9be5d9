"""What the judges look at: each held-out photograph beside what a method made of its degraded copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..scoring.metrics import luma
from ..scoring.pair_files import find_pairs, read_pair
from ..scoring.pictures import rounded
from ..scoring.validation import Method

FOLDS = 2


@dataclass(frozen=True)
class Result:
    """A photograph x_hr and a method's x_sr of it, (1, 3, H, W) in [0, 1], in whole levels of 8 bits."""

    name: str
    x_sr: Tensor
    x_hr: Tensor


def results_of(method: Method, folder: Path) -> list[Result]:
    """Of all pairs in `folder`, rounded as a saved file would be."""
    found: list[Result] = []
    for name in find_pairs(folder):
        pair = read_pair(folder, name)
        found.append(Result(name, rounded(method(pair).cpu()), pair.x_hr))
    return found


def split(results: Sequence[Result], fold: int) -> tuple[list[Result], list[Result]]:
    """(To learn from, to judge): no photograph is in both, and each is judged in one of the FOLDS."""
    learned = [result for index, result in enumerate(results) if index % FOLDS != fold]
    return learned, [result for index, result in enumerate(results) if index % FOLDS == fold]


def levels(image: Tensor) -> Tensor:
    """The luma (H, W) of an image (1, 3, H, W) in [0, 1], in levels of 255, float64."""
    return luma(image.double())[0, 0] * 255
