"""Make LR/HR pairs for `evaluate` out of photographs: the central crop, and what a degradation leaves of it.

    python -m train_tools.make_pairs PHOTOS PAIRS [--preset camera] [--size 512] [--seed 0]

Writes PAIRS/HR/NAME.png and PAIRS/LR/NAME.png, a quarter as large. Photographs are first reduced to twice the size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfosd_core import images
from dfosd_core.training.degradation import PRESETS, SCALE, degrade

from .photos import SUFFIXES


def central_crop(path: Path, size: int) -> Tensor:
    """The middle of a photograph as (1, 3, H, W) in [0, 1], at most size x size, sides multiples of 4."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    factor = 2 * size / min(image.size)
    if factor < 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    width, height = (min(size, edge) // SCALE * SCALE for edge in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.array(image.crop((left, top, left + width, top + height)))
    return images.to_bchw(torch.from_numpy(pixels)[None].float() / 255)


def save(x: Tensor, path: Path) -> None:
    """Write (1, 3, H, W) in [0, 1] as an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((images.to_bhwc(x)[0] * 255).round().byte().numpy()).save(path)


def main() -> None:
    """Parse the command line and write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="camera")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    for path in sorted(p for p in args.photos.iterdir() if p.suffix.lower() in SUFFIXES):
        x_hr = central_crop(path, args.size)
        save(x_hr, args.pairs / "HR" / f"{path.stem}.png")
        save(degrade(x_hr, PRESETS[args.preset], rng), args.pairs / "LR" / f"{path.stem}.png")


if __name__ == "__main__":
    main()
