"""Prepare a published test set for `evaluate` from its original folder, for the protocol of whole images.

    python -m train_tools.prepare_benchmark RealSR    'RealSR(V3)/'     SET
    python -m train_tools.prepare_benchmark DRealSR   Test_x4/          SET
    python -m train_tools.prepare_benchmark DIV2K-val DIV2K_valid_HR/   SET
    python -m train_tools.prepare_benchmark RealSet65 RealSet65/        SET

Checks the number and sizes of the images, then writes SET/LR/, SET/HR/ (RealSet65 has none) and SET/set.json. DIV2K's
small images are made here. StableSR's 512x512 crops need no preparation: give their folder to `evaluate`.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import copy_whole, make_folder, what_failed, write_text
from dfosd_core.training.degradations import DEGRADATIONS

from .data.benchmarks import READERS, SCALE, Item
from .scoring.pictures import opened, read_image, save_picture, to_picture
from .scoring.sets import SET_FILE

PRESET = "heavy"
MADE = (
    f"LR images made here with Real-ESRGAN's degradation (`{PRESET}`, seed 0), as the papers' are not published: "
    "quoted figures are of other LR images"
)


def prepare(name: str, source: Path, out: Path) -> int:
    """Write the set; return the number of images. Raises ConfigError, one line, before anything is written."""
    if (out / SET_FILE).exists():
        raise ConfigError(f"'{out}' holds a prepared set already. Choose another folder, or remove it.")
    items = READERS[name](source)
    for side in ("LR", "HR"):
        if any(side == "LR" or item.hr for item in items):
            make_folder(out / side, ConfigError)
    for index, item in enumerate(items):
        _write(item, out, index)
    note = MADE if any(item.lr is None for item in items) else ""
    write_text(out / SET_FILE, json.dumps({"benchmark": f"{name}-full", "note": note}, indent=2) + "\n")
    return len(items)


def _write(item: Item, out: Path, index: int) -> None:
    hr = out / "HR" / f"{item.name}.png"
    if item.hr:
        _copy(item.hr, hr, item.lr_size and (SCALE * item.lr_size[0], SCALE * item.lr_size[1]))
    if item.lr:
        _copy(item.lr, out / "LR" / f"{item.name}{item.lr.suffix if not item.hr else '.png'}", item.lr_size)
    else:
        x_lq = DEGRADATIONS[PRESET](read_image(hr), np.random.default_rng([0, index]))
        save_picture(to_picture(x_lq), out / "LR" / f"{item.name}.png")


def _copy(source: Path, target: Path, size: tuple[int, int] | None) -> None:
    """As it is where that will do; else as PNG, cut to (width, height) from the upper left."""
    with opened(source) as image:
        if size in (None, image.size) and source.suffix.lower() == target.suffix.lower():
            copy_whole(source, target)
        else:
            save_picture(image.convert("RGB").crop((0, 0, *(size or image.size))), target)


def main() -> int:
    """Parse the command line, prepare, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=tuple(READERS))
    parser.add_argument("source", type=Path)
    parser.add_argument("set", type=Path)
    args = parser.parse_args()
    try:
        count = prepare(args.benchmark, args.source, args.set)
    except DfosdError as error:
        print(f"prepare_benchmark: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"prepare_benchmark: {what_failed(error)}", file=sys.stderr)
        return 1
    print(f"{count} images in {args.set}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
