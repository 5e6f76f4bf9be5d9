"""Mean and variance of a map that is seen part by part, as exact as if it were seen at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .layers import to_sequence

_TOGETHER = 2**18
"""Values that are summed in float32 before their sums are joined in float64. Few enough for a processor's cache."""


class Moments:
    """Of each channel of a map (1, C, H, W), whose every place is added once.

    Squares are taken of the distances from the mean of a few places, so a bright flat map loses no digits.
    """

    def __init__(self) -> None:
        self._places = 0
        self._mean = torch.zeros(1, dtype=torch.float64)
        self._squares = torch.zeros(1, dtype=torch.float64)
        """Sum of the squared distances from the mean."""

    def add(self, part: Tensor) -> None:
        """Some rows of the map, (1, C, h, W)."""
        counts: list[int] = []
        means: list[Tensor] = []
        squares: list[Tensor] = []
        for values in to_sequence(part)[0].split(max(_TOGETHER // part.shape[1], 1)):
            values = values.float()
            mean = values.mean(0)
            counts.append(len(values))
            means.append(mean)
            squares.append((values - mean).square_().sum(0))
        # One copy from the device for each part. In float64 on the CPU: not every device has it.
        mean, squared = torch.stack([*means, *squares]).cpu().double().chunk(2)
        self._join(torch.tensor(counts, dtype=torch.float64)[:, None], mean, squared)

    def _join(self, counts: Tensor, means: Tensor, squares: Tensor) -> None:
        counts = torch.cat([torch.full((1, 1), self._places, dtype=torch.float64), counts])
        means = torch.cat([self._mean.expand(1, means.shape[1]), means])
        total = counts.sum()
        self._mean = (counts * means).sum(0) / total
        self._squares = self._squares + squares.sum(0) + (counts * (means - self._mean).square()).sum(0)
        self._places = int(total)

    @property
    def is_finite(self) -> bool:
        """False as soon as one value of the map isn't."""
        return bool((self._mean + self._squares).isfinite().all())

    def of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) float64 that each channel has in common with its group."""
        means, variances = (y.view(groups, -1) for y in (self._mean, self._squares / self._places))
        mean = means.mean(1, keepdim=True)
        variance = (variances + (means - mean).square()).mean(1, keepdim=True)
        return mean.expand_as(means).reshape(-1), variance.expand_as(means).reshape(-1)
