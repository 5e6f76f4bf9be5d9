"""What the settings do to examples/photo.png: the pictures of docs/settings.md.

    python -m benchmarks.settings_pictures docs/settings

Half a minute of the processor's time. Run it again when the embedded weights have changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dfosd_core.color_fix import low_pass
from dfosd_core.files import write_whole
from dfosd_core.host import Host
from dfosd_core.images import resize, to_bchw, to_bhwc
from dfosd_core.memory import need_of
from dfosd_core.models import load_models
from dfosd_core.pipeline import upscale
from dfosd_core.settings import COLOR_FIX_NAMES, FIT_NAMES, ModelChoice, UpscaleSettings
from train_tools.scoring.pictures import enlarged, read_image, to_picture

PHOTO = Path(__file__).parents[1] / "examples" / "photo.png"
CROP = slice(396, 492), slice(520, 616)
"""Rows and columns of the result at scale 4: the spoon."""
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
EXACT: dict[str, Any] = {"width": 360, "height": 360}
TILES: tuple[dict[str, Any], ...] = ({}, {"unet_tile": 512}, {"unet_tile": 256, "unet_overlap": 128})
DIFFERENCE = 16
GAP_PX, LINE_PX, FONT_PX = 6, 18, 13
LINE_COLOR = (60, 170, 255)
QUALITY = 88

Run = Callable[..., Tensor]
"""Settings by name -> (1, 3, H, W) in [0, 1]."""


def size(photo: Tensor, run: Run) -> Image.Image:
    """The photograph, twice as large, and in another shape."""
    images = [photo, run(scale=2.0), *(run(**EXACT, fit=fit) for fit in FIT_NAMES)]
    titles = ["input", "--scale 2", *(f"--width 360 --height 360 --fit {fit}" for fit in FIT_NAMES)]
    sizes = [f"{image.shape[-1]}x{image.shape[-2]}" for image in images]
    return _sheet([images], [f"{title}: {edges}" for title, edges in zip(titles, sizes, strict=True)])


def strength(photo: Tensor, run: Run) -> Image.Image:
    """A crop of bicubic and of five strengths."""
    images = [_bicubic(photo), *(run(strength=value) for value in STRENGTHS)]
    titles = ["bicubic", *(f"--strength {value:g}" for value in STRENGTHS)]
    return _sheet([[enlarged(image[..., CROP[0], CROP[1]], 2) for image in images]], titles)


def color_fix(photo: Tensor, run: Run) -> Image.Image:
    """The photograph with each, and how far its low frequencies are from the input's."""
    fixed = [run(color_fix=name) for name in COLOR_FIX_NAMES]
    changes = [low_pass(image - _bicubic(photo)) for image in fixed]
    for name, change in zip(COLOR_FIX_NAMES, changes, strict=True):
        print(f"{name}: colours differ by {255 * change.abs().mean():.2f} of 255 levels on average")
    amplified = [(0.5 + DIFFERENCE * change).clamp(0, 1) for change in changes]
    rows = [[image[..., ::3, ::3] for image in images] for images in (fixed, amplified)]
    return _sheet(rows, [f"--color-fix {name}" for name in COLOR_FIX_NAMES])


def tiles(photo: Tensor, run: Run, host: Host) -> Image.Image:
    """Where the UNet's tiles lie; and how far the results are apart."""
    results = [run(**given) for given in TILES]
    drawn: list[Tensor] = []
    for given, result in zip(TILES, results, strict=True):
        need = need_of((result.shape[-2], result.shape[-1]), host, UpscaleSettings(**given))
        grid, factor = need.grids["unet"], need.factor
        apart = 255 * (result - results[0]).abs().max()
        print(f"{given or 'automatic'}: {len(grid)} tiles; differs by at most {apart:.4f} of 255 levels")
        lines = torch.zeros_like(result[:, :1])
        for tile in grid:
            for edge in (slice(0, 3), slice(-3, None)):
                tile.crop(lines, factor)[..., edge, :] = 1
                tile.crop(lines, factor)[..., edge] = 1
        color = torch.tensor(LINE_COLOR).view(1, 3, 1, 1) / 255
        drawn.append((result * (1 - lines) + color * lines)[..., 1::3, 1::3])
    titles = [" ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items()) for given in TILES]
    return _sheet([drawn], ["automatic", *titles[1:]])


def _bicubic(photo: Tensor) -> Tensor:
    return resize(photo, (photo.shape[-2] * 4, photo.shape[-1] * 4)).clamp(0, 1)


def _sheet(rows: Sequence[Sequence[Tensor]], titles: Sequence[str]) -> Image.Image:
    """Images below their titles, which may need more width than they."""
    font = ImageFont.load_default(FONT_PX)
    images = [[to_picture(image) for image in row] for row in rows]
    widths = [max(images[0][i].width, int(font.getlength(title)) + GAP_PX) for i, title in enumerate(titles)]
    heights = [max(image.height for image in row) for row in images]
    sheet = Image.new(
        "RGB", (sum(widths) + GAP_PX * (len(widths) - 1), LINE_PX + sum(heights) + GAP_PX * (len(rows) - 1)), "white"
    )
    left = 0
    for i, title in enumerate(titles):
        ImageDraw.Draw(sheet).text((left, 0), title, fill="black", font=font)
        top = LINE_PX
        for row, height in zip(images, heights, strict=True):
            sheet.paste(row[i], (left, top))
            top += height + GAP_PX
        left += widths[i] + GAP_PX
    return sheet


def main() -> None:
    """Compute, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="FOLDER")
    out: Path = parser.parse_args().out
    host, lora = load_models(ModelChoice(dtype="float32"), torch.device("cpu"))
    photo = read_image(PHOTO)

    def run(**given: Any) -> Tensor:
        return to_bchw(upscale(to_bhwc(photo), host, lora, UpscaleSettings(**given)))

    out.mkdir(parents=True, exist_ok=True)
    sheets: dict[str, Callable[[], Image.Image]] = {
        "size": lambda: size(photo, run),
        "strength": lambda: strength(photo, run),
        "color_fix": lambda: color_fix(photo, run),
        "tiles": lambda: tiles(photo, run, host),
    }
    for name, draw in sheets.items():
        with write_whole(out / f"{name}.jpg") as file:
            draw().save(file, "JPEG", quality=QUALITY)


if __name__ == "__main__":
    main()
