"""Small pictures for ComfyUI's page: the mosaic of finished tiles during a run, before and after behind it."""

from __future__ import annotations

from PIL import Image
from torch import Tensor
from torch.nn import functional

from .image_files.picture import fit
from .image_files.pil import to_pil
from .image_files.tensors import to_picture
from .images import resize, to_bchw, to_bhwc
from .tiles.run import FinishedTile

PREVIEW_PX = 512
"""Longer edge of the mosaic."""


class Mosaic:
    """The output as far as it is known: the enlarged input, and each decoded tile in its place."""

    def __init__(self, images: Tensor, size: tuple[int, int]) -> None:
        """`images`: (B, H, W, 3 or 4) in [0, 1]; `size`: (height, width) of the output."""
        self._images = images
        self._size = fit(size, PREVIEW_PX)
        self._scale = self._size[0] / size[0], self._size[1] / size[1]
        self._shown = -1
        self._picture = Image.new("RGB", (self._size[1], self._size[0]))

    def start(self, image: int) -> Image.Image:
        """The picture for the image of this number, new and without tiles if another one was shown."""
        if image != self._shown:
            self._shown = image
            x = to_bchw(self._images[image : image + 1, ..., :3].float())
            self._picture = _image(resize(x, self._size))
        return self._picture

    def paste(self, tile: FinishedTile) -> Image.Image:
        """The picture with this tile of decoded pixels in it."""
        picture = self.start(tile.image)
        height, width = tile.values.shape[-2:]
        top, left = round(tile.top * self._scale[0]), round(tile.left * self._scale[1])
        bottom = max(round((tile.top + height) * self._scale[0]), top + 1)
        right = max(round((tile.left + width) * self._scale[1]), left + 1)
        small = functional.adaptive_avg_pool2d(tile.values[:, :3], (bottom - top, right - left))
        picture.paste(_image(small), (left, top))
        return picture


def _image(x: Tensor) -> Image.Image:
    return to_pil(to_picture(to_bhwc(x)))
