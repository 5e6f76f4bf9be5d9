"""What a few seeds can say of a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# fmt: off
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
"""Student's t at 97.5 % for 1, 2, ... degrees of freedom; beyond these the last, which is a little too wide."""
FEWEST = 4
"""Seeds from which on a difference may be called one."""


class Paired(NamedTuple):
    """Differences seed by seed: less than 0 is better for the first of the two."""

    differences: tuple[float, ...]
    mean: float
    deviation: float
    """Sample standard deviation; NaN for one seed."""
    low: float
    """Of the 95 % interval of the mean, by Student's t: it supposes differences that scatter normally."""
    high: float
    better: int
    """Seeds in which the first is better."""
    sign_p: float
    """Two-sided sign test, which supposes nothing of the kind: from 4 seeds it cannot give less than 0.125."""

    @property
    def is_shown(self) -> bool:
        """Whether there are FEWEST seeds and the interval leaves out 0."""
        return len(self.differences) >= FEWEST and not self.low <= 0 <= self.high


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Of two rows' scores, (n,) each, in the same order of seeds, n >= 1."""
    differences = tuple(a - b for a, b in zip(first, second, strict=True))
    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        deviation = half = math.nan
    else:
        deviation = float(np.std(differences, ddof=1))
        half = T_975[min(count - 1, len(T_975)) - 1] * deviation / math.sqrt(count)
    better, worse = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    return Paired(differences, mean, deviation, mean - half, mean + half, better, sign_test(better, worse))


def sign_test(better: int, worse: int) -> float:
    """Chance of so lopsided a count, or one more so, if either side were as likely; ties are left out before."""
    count = better + worse
    tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**count)
