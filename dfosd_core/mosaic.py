"""Small pictures for ComfyUI's page: the mosaic of finished tiles during a run, before and after behind it."""

from __future__ import annotations

from PIL import Image
from torch import Tensor
from torch.nn import functional

from .image_files.picture import fit
from .image_files.pil import to_pil
from .image_files.tensors import to_picture
from .images import place, to_bhwc
from .sizes import Placement
from .tiles.run import FinishedTile

PREVIEW_PX = 512
"""Longer edge of the mosaic."""


class Mosaic:
    """The output as far as it is known: the enlarged input, and each decoded tile in its place."""

    def __init__(self, images: Tensor, placement: Placement) -> None:
        """`images`: (B, H, W, 3 or 4) in [0, 1]; `placement`: of each in the output."""
        self._images = images
        self._bars = placement.bars
        self._size = fit(placement.output, PREVIEW_PX)
        self._small = placement.reduced_to(self._size)
        self._scale = self._size[0] / placement.output[0], self._size[1] / placement.output[1]
        self._shown = -1
        self._picture = Image.new("RGB", (self._size[1], self._size[0]))

    def start(self, image: int) -> Image.Image:
        """The picture for the image of this number, new and without tiles if another one was shown."""
        if image != self._shown:
            self._shown = image
            self._picture = to_pil(to_picture(place(self._images[image : image + 1, ..., :3], self._small)))
        return self._picture

    def paste(self, tile: FinishedTile) -> Image.Image:
        """The picture with this tile of decoded pixels in it."""
        picture = self.start(tile.image)
        height, width = tile.values.shape[-2:]
        row, column = tile.top + self._bars[0], tile.left + self._bars[1]
        top, left = round(row * self._scale[0]), round(column * self._scale[1])
        bottom = max(round((row + height) * self._scale[0]), top + 1)
        right = max(round((column + width) * self._scale[1]), left + 1)
        small = functional.adaptive_avg_pool2d(tile.values[:, :3], (bottom - top, right - left))
        picture.paste(to_pil(to_picture(to_bhwc(small))), (left, top))
        return picture
