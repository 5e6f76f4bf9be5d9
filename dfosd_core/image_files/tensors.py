"""Samples of 8 or 16 bits as tensors in [0, 1] and back: rounded to nearest, cut off outside the range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..images import BAND_ROWS
from .picture import Picture, Samples

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. 601: how much each colour adds to a grey."""


def to_tensor(picture: Picture) -> Tensor:
    """(1, H, W, 3 or 4) float32 in [0, 1], as the pipeline takes it; grey becomes three equal colours."""
    samples = picture.with_three_colors().samples
    return torch.from_numpy(samples.astype(np.float32) / np.iinfo(samples.dtype).max)[None]


def to_picture(image: Tensor, like: Picture | None = None) -> Picture:
    """(1, h, w, 3 or 4) on any device -> 8 bits, or with the bits, the grey and the metadata of `like`."""
    like = like or Picture(samples=np.zeros((1, 1, image.shape[3]), np.uint8))
    channels = image.shape[3] - 2 if like.is_grey else image.shape[3]
    samples = np.empty((*image.shape[1:3], channels), like.samples.dtype)
    for start in range(0, len(samples), BAND_ROWS):
        band = slice(start, start + BAND_ROWS)
        samples[band] = _samples(image[0, band], like)
    return replace(like, samples=samples)


def _samples(rows: Tensor, like: Picture) -> Samples:
    values = rows.detach().float().cpu().numpy()
    if like.is_grey:
        values = np.concatenate([values[..., :3] @ _LUMA[:, None], values[..., 3:]], axis=2)
    top = np.iinfo(like.samples.dtype).max
    return np.rint(np.clip(values, 0.0, 1.0) * np.float32(top)).astype(like.samples.dtype)
