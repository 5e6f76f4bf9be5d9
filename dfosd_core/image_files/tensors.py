"""A `Picture` as the pipeline takes it, and the pipeline's result as a `Picture`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .picture import Picture

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. 601: how much each colour adds to a grey."""


def to_tensor(picture: Picture) -> Tensor:
    """(1, H, W, 3 or 4) float32 in [0, 1], as the pipeline takes it; grey becomes three equal colours."""
    samples = picture.with_three_colors().samples
    return torch.from_numpy(samples.astype(np.float32) / np.iinfo(samples.dtype).max)[None]


def like(picture: Picture, image: Tensor) -> Picture:
    """The pipeline's (1, h, w, 3 or 4) in `picture`'s depth, grey where `picture` is, with its metadata."""
    values = image[0].numpy()
    if picture.is_grey:
        values = np.concatenate([values[..., :3] @ _LUMA[:, None], values[..., 3:]], axis=2)
    top = np.iinfo(picture.samples.dtype).max
    samples = np.rint(np.clip(values, 0.0, 1.0) * np.float32(top)).astype(picture.samples.dtype)
    return replace(picture, samples=samples)
