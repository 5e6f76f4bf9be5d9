"""DFOSD Upscale's optional MASK: all is upscaled, and outside the mask the image stays as it was."""

from __future__ import annotations

from torch import Tensor

from ...dfosd_core.errors import ImageFileError
from ...dfosd_core.images import place
from ...dfosd_core.sizes import Placement


def check_mask(mask: Tensor, images: int) -> None:
    """Raises ImageFileError, before any computing, for another shape than (1 or `images`, H, W)."""
    if mask.ndim != 3 or mask.shape[0] not in (1, images):
        raise ImageFileError(
            f"Expected one mask or {images}, one for each image, found a tensor of shape {tuple(mask.shape)}."
        )


def kept_outside(output: Tensor, image: Tensor, mask: Tensor, placement: Placement) -> Tensor:
    """`output` (B, h, w, C), changed in place: where `mask` is 0 it becomes `image` (B, H, W, C), bicubic.

    All in [0, 1]. The mask (1 or B, any size) is placed as the image is, so that its edges stay where they are.
    """
    for i in range(len(image)):  # one at a time: a film would need its enlarged frames at once
        outside = place(image[i : i + 1].to(output.device), placement)
        weight = place(mask[i % len(mask)][None, ..., None].to(output.device), placement)
        output[i : i + 1] = outside.lerp_(output[i : i + 1], weight)
    return output
