"""The degradations by name: what `data.presets` and `make_pairs --preset` choose from.

A new one is a file here and a line in DEGRADATIONS: another severity or scale of `RealEsrgan`, a video codec, any
object with Degradation's two members. Pairs taken by a camera are not a degradation but data: a dataset of its own
beside `train_tools.data.crops.CropDataset`.
"""

from __future__ import annotations

import typing
from typing import Protocol

import numpy as np
from torch import Tensor

from .presets import CAMERA, HEAVY, LIGHT


class Degradation(Protocol):
    """Makes x_lq of x_hr. It draws from `rng` alone, so that equal seeds give equal images."""

    @property
    def scale(self) -> int:
        """How many times smaller x_lq is."""
        ...

    def __call__(self, x_hr: Tensor, rng: np.random.Generator) -> Tensor:
        """Return x_lq (B, 3, H/scale, W/scale) of x_hr (B, 3, H, W), both in [0, 1]; H and W are multiples of scale."""
        ...


DEGRADATIONS: dict[str, Degradation] = {"heavy": HEAVY, "light": LIGHT, "camera": CAMERA}
if typing.TYPE_CHECKING:
    DegradationName = str
else:
    DegradationName = typing.Literal[tuple(DEGRADATIONS)]
"""The type of a setting that names one: the configuration's parser and reference list the names."""
