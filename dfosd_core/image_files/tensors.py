"""Samples of 8 or 16 bits as tensors in [0, 1] and back: rounded to nearest, cut off outside the range."""

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


def to_picture(image: Tensor, like: Picture | None = None) -> Picture:
    """(1, h, w, 3 or 4) on any device -> 8 bits, or with the bits, the grey and the metadata of `like`."""
    values = image[0].detach().float().cpu().numpy()
    like = like or Picture(samples=np.zeros((1, 1, values.shape[2]), np.uint8))
    if like.is_grey:
        values = np.concatenate([values[..., :3] @ _LUMA[:, None], values[..., 3:]], axis=2)
    top = np.iinfo(like.samples.dtype).max
    samples = np.rint(np.clip(values, 0.0, 1.0) * np.float32(top)).astype(like.samples.dtype)
    return replace(like, samples=samples)
