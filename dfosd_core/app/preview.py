"""Small pictures of an input and its result, equally large, for the view that lays them over each other."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..image_files.picture import fit
from ..image_files.pil import to_pil
from ..image_files.read import read_image

LONG_EDGE = 2048
"""Of a preview: sharp on a large screen, and still quickly sent."""
_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A finished file and its two previews."""

    name: str
    """The input's."""
    result: Path
    size_before: tuple[int, int]
    """(height, width)."""
    size_after: tuple[int, int]
    seconds: float
    before: Path
    """The input enlarged bicubically, at most `LONG_EDGE` long."""
    after: Path
    preview_size: tuple[int, int]
    """(height, width) of both previews."""
    notes: tuple[str, ...] = ()
    """What was left out or converted, a sentence each."""


def make_pair(source: Path, result: Path, folder: Path, seconds: float, notes: tuple[str, ...] = ()) -> Pair:
    """Write the previews of both into `folder`. Raises what `read_image` raises."""
    before, after = open_image(source), open_image(result)
    height, width = fit((after.height, after.width), LONG_EDGE)
    paths = [folder / f"{result.stem}.{part}.webp" for part in ("before", "after")]
    for image, path in zip((before, after), paths, strict=True):
        image.resize((width, height), Image.Resampling.BICUBIC).save(path, "WEBP", quality=_QUALITY, method=2)
    return Pair(
        name=source.name,
        result=result,
        size_before=(before.height, before.width),
        size_after=(after.height, after.width),
        seconds=seconds,
        before=paths[0],
        after=paths[1],
        preview_size=(height, width),
        notes=notes,
    )


def open_image(path: Path) -> Image.Image:
    """Upright, 8 bits, RGB or RGBA; of an animation the first frame. Raises ImageFileError."""
    return to_pil(read_image(path, sequences=True).with_three_colors().to_8_bit())


def thumbnail_url(path: Path) -> tuple[str, tuple[int, int]]:
    """An input as a data URL, and its (height, width)."""
    image = open_image(path)
    size = image.height, image.width
    image.thumbnail((LONG_EDGE // 2, LONG_EDGE // 2))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return data_url(buffer.getvalue()), size


def data_url(data: bytes) -> str:
    """A preview for the page: every Gradio serves files under another address."""
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
