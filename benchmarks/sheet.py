"""Crops of several sets at three times their size: input, bicubic, other methods, ours, original.

    python -m benchmarks.peers SET/LR -o SET                          # SPAN's and Real-ESRGAN's images
    python -m benchmarks.sheet SETS -o docs/contact_sheet.png         # the crops in benchmarks/sheet.tsv

SETS holds the sets that the table names. A line of the table is: set, image, left, top (in pixels of HR), subject.
"""

from __future__ import annotations

import argparse
import csv
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.settings import ModelChoice, UpscaleSettings
from train_tools.scoring.pair_files import Pair, by_stem
from train_tools.scoring.pictures import SheetRow, contact_sheet, enlarged, read_image, save_picture
from train_tools.scoring.sets import open_set
from train_tools.scoring.sources import Model
from train_tools.scoring.validation import Method, bicubic

from .peers import PEERS

TABLE = Path(__file__).with_suffix(".tsv")
EDGE_PX = 96
ZOOM = 3


class Crop(NamedTuple):
    """A square of EDGE_PX in an image of a set."""

    set: str
    image: str
    left: int
    top: int
    subject: str

    def of(self, x: Tensor) -> Tensor:
        """(1, 3, EDGE_PX * ZOOM, EDGE_PX * ZOOM), each pixel ZOOM wide."""
        return enlarged(x[..., self.top : self.top + EDGE_PX, self.left : self.left + EDGE_PX], ZOOM)


def read_table(path: Path) -> list[Crop]:
    """Raises ConfigError for a line that is none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if row]
    try:
        return [Crop(row[0], row[1], int(row[2]), int(row[3]), row[4]) for row in rows]
    except (IndexError, ValueError) as error:
        raise ConfigError(f"'{path}': expected set, image, left, top, subject in each line.") from error


def row_of(crop: Crop, sets: Path, method: Method) -> SheetRow:
    """Input, bicubic, the peers where their images are there (else grey), ours, original."""
    found = open_set(sets / crop.set)
    if crop.image not in found.lr:
        raise ConfigError(f"'{sets / crop.set}' has no image '{crop.image}'.")
    pair = found.read(crop.image)
    assert isinstance(pair, Pair)
    images = [enlarged(pair.x_lq, pair.scale), bicubic(pair)]
    for peer in PEERS:
        folder = found.folder / peer.folder
        path = by_stem(folder).get(crop.image) if folder.is_dir() else None
        images.append(read_image(path) if path else torch.full_like(pair.x_hr, 0.5))
    images += [method(pair).clamp(0, 1), pair.x_hr]
    return SheetRow(images=[crop.of(image) for image in images], captions=[crop.subject])


def main() -> int:
    """Parse the command line, compute, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--base", help="base model (default: the embedded one)")
    parser.add_argument("--lora", help="LoRA (default: the embedded one)")
    parser.add_argument("--strength", type=float, default=1.0)
    args = parser.parse_args()
    try:
        choice = ModelChoice(base=args.base, lora=args.lora, device="cpu")
        with ExitStack() as stack:
            method = Model(choice, UpscaleSettings(strength=args.strength), stack)
            rows = [row_of(crop, args.sets, method) for crop in read_table(args.table)]
        titles = ("input", "bicubic", *(peer.folder for peer in PEERS), "DFOSD, embedded", "original")
        save_picture(contact_sheet(rows, titles, EDGE_PX * ZOOM), args.output)
    except (DfosdError, OSError) as error:
        print(f"sheet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
