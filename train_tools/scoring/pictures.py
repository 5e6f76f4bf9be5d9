"""Contact sheets: rows of images side by side, each column under its title, each row over its scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dfosd_core import images
from dfosd_core.errors import ConfigError
from dfosd_core.files import write_whole
from dfosd_core.image_files import tensors
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.pil import to_pil

CELL_PX = 256
GAP_PX = 4
LINE_PX = 18
FONT_PX = 13


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """Images (1, 3, H, W) in [0, 1], all taken to the size of the last one, and a line under each (or none)."""

    images: Sequence[Tensor]
    captions: Sequence[str] = ()


def contact_sheet(rows: Sequence[SheetRow], titles: Sequence[str], cell_px: int = CELL_PX) -> Image.Image:
    """Draw central crops of cell_px; a small image keeps its pixels visible (nearest neighbour)."""
    font = ImageFont.load_default(FONT_PX)
    line = LINE_PX if any(row.captions for row in rows) else 0
    pitch = cell_px + GAP_PX
    sheet = Image.new("RGB", (len(titles) * pitch - GAP_PX, LINE_PX + len(rows) * (pitch + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * pitch + 2, 1), title, fill="black", font=font)
    for i, row in enumerate(rows):
        top = LINE_PX + i * (pitch + line)
        for column, image in enumerate(row.images):
            sheet.paste(_cell(image, row.images[-1], cell_px), (column * pitch, top))
        for column, caption in enumerate(row.captions):
            draw.text((column * pitch + 2, top + cell_px + 1), caption, fill="black", font=font)
    return sheet


def _cell(image: Tensor, like: Tensor, cell_px: int) -> Image.Image:
    height, width = like.shape[-2:]
    picture = to_picture(image).resize((width, height), Image.Resampling.NEAREST)
    left, top = max(0, (width - cell_px) // 2), max(0, (height - cell_px) // 2)
    return picture.crop((left, top, left + min(cell_px, width), top + min(cell_px, height)))


def to_picture(image: Tensor) -> Image.Image:
    """(1, 3, H, W) in [0, 1], on any device -> an 8-bit picture."""
    return to_pil(tensors.to_picture(images.to_bhwc(image)))


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture -> (1, 3, H, W) in [0, 1], transparency dropped."""
    return images.to_bchw(tensors.to_tensor(Picture(samples=np.asarray(picture.convert("RGB")))))


def rounded(image: Tensor) -> Tensor:
    """(1, 3, H, W) in whole levels of 8 bit, as a saved file would have it."""
    return (image.clamp(0, 1) * 255).round() / 255


def enlarged(image: Tensor, factor: int) -> Tensor:
    """(1, 3, H, W) with each pixel `factor` pixels wide, to look at."""
    return image.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def read_image(path: Path) -> Tensor:
    """An 8-bit image file as (1, 3, H, W) in [0, 1]. Raises ConfigError where it is damaged or none."""
    with opened(path) as picture:
        return to_tensor(picture)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, by the file's header. Raises ConfigError as `read_image`."""
    with opened(path) as picture:
        return picture.size


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file, whose reading in the `with` block may fail: raises ConfigError, one line."""
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: by Pillow's PNG reader
        raise ConfigError(f"'{path}' cannot be read as an image. Get it again, or take it out.") from error


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG; at any moment `path` is the old picture or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        picture.save(file, format="PNG")
