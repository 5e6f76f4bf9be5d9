"""What no mean of a metric tells of the embedded default: on how many pictures it is better, its colours, flat areas.

    python -m benchmarks.picture --scores RESULTS [RESULTS ...]    # folders that `train_tools.evaluate --out` wrote
    python -m benchmarks.picture --pairs PAIRS [--sheet flat.png]  # colours; the 20 flattest places of PAIRS/HR
    python -m benchmarks.picture --flat FOLDER                     # pictures of one colour, and ramps

Prints a line for each figure. Results are rounded to 8 bit first, as a saved file would be; ramps of 16 bit are not.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dfosd_core.color_fix import low_pass
from dfosd_core.errors import DfosdError
from dfosd_core.image_files import is_image_name
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.tensors import to_tensor
from dfosd_core.images import to_bchw
from dfosd_core.settings import ModelChoice, UpscaleSettings
from train_tools.scoring.pair_files import Pair, Sample
from train_tools.scoring.pictures import SheetRow, contact_sheet, enlarged, rounded, save_picture
from train_tools.scoring.sets import open_set
from train_tools.scoring.sources import Model
from train_tools.scoring.validation import Method, bicubic

METHOD = "DFOSD"
OTHERS = ("bicubic", "SPAN")
FLAT_PX = 96
FLAT_PLACES = 20
STEP_PX = 16
ROUNDING = 1 / 255**2 / 12
"""Energy of what rounding to 8 bits leaves; no file can be told to be flatter, so both sides of a ratio have it."""
BRIGHTNESS = (0.05, 0.95)
"""Mean of a place that counts as sky or wall: what is cut off at black or white says nothing."""


class Place(NamedTuple):
    """A square of FLAT_PX in a pair, and the energy of what is fine in it."""

    energy: float
    name: str
    top: int
    left: int

    def crop(self, x: Tensor) -> Tensor:
        return x[..., self.top : self.top + FLAT_PX, self.left : self.left + FLAT_PX]


def shares(results: Path) -> str:
    """On how many images DISTS is better than the others', and by how much it is worse than bicubic's at most."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with (results / "scores.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["image"]][row["method"]] = float(row["DISTS"])
    others = [other for other in OTHERS if all(other in scores for scores in found.values())]
    better = sum(all(scores[METHOD] < scores[other] for other in others) for scores in found.values())
    worst, name = max((scores[METHOD] - scores["bicubic"], name) for name, scores in found.items())
    return (
        f"{results.name}: DISTS better than {' and '.join(others)} on {better} of {len(found)} "
        f"({100 * better / len(found):.0f} %); against bicubic at worst {worst:+.4f} ({name})"
    )


def fine(x: Tensor) -> Tensor:
    """What two levels of the wavelet leave over: grain and edges up to some 4 pixels."""
    return x - low_pass(x, 2)


def flattest(name: str, x_hr: Tensor) -> Place | None:
    """The place with the least fine energy, None where all are too dark or too bright."""
    energy, mean = (
        torch.nn.functional.avg_pool2d(each.mean(1, keepdim=True), FLAT_PX, STEP_PX)[0, 0]
        for each in (fine(x_hr).square(), x_hr)
    )
    energy[(mean < BRIGHTNESS[0]) | (mean > BRIGHTNESS[1])] = torch.inf
    row, column = divmod(int(energy.argmin()), energy.shape[1])
    least = float(energy[row, column])
    return Place(least, name, row * STEP_PX, column * STEP_PX) if least < torch.inf else None


def colours_and_flat_areas(folder: Path, method: Method, sheet: Path | None) -> Iterator[str]:
    """Of all pairs: distance of the low frequencies from bicubic's; of the flattest 20: fine energy over HR's."""
    pairs = open_set(folder)
    places: list[Place] = []
    means, largest = torch.zeros(3), torch.zeros(3)
    made: dict[str, Tensor] = {}
    for name in pairs.lr:
        pair = pairs.read(name)
        assert isinstance(pair, Pair)
        image = rounded(method(pair))
        distance = (low_pass(image) - low_pass(bicubic(pair))).abs()[0].flatten(1) * 255
        means += distance.mean(1) / len(pairs.lr)
        largest = largest.maximum(distance.mean(1))
        if place := flattest(name, pair.x_hr):
            places.append(place)
            made[name] = place.crop(image)
    red, green, blue = means.tolist()
    yield f"{folder.name}: low frequencies off bicubic's by {red:.2f}, {green:.2f}, {blue:.2f} of 255 (R, G, B), mean"
    yield f"{folder.name}: of the worst image {largest.max():.2f}"
    rows: list[SheetRow] = []
    ratios: list[float] = []
    for place in sorted(places)[:FLAT_PLACES]:
        pair = pairs.read(place.name)
        assert isinstance(pair, Pair)
        crops = [place.crop(bicubic(pair)), made[place.name], place.crop(pair.x_hr)]
        ours, originals = (float(fine(crop).square().mean()) + ROUNDING for crop in crops[1:])
        ratios.append(ours / originals)
        rows.append(SheetRow(images=[stretched(c) for c in crops], captions=[place.name[:40], f"x{ratios[-1]:.2f}"]))
    over = sum(ratio > 1.5 for ratio in ratios)
    yield (
        f"{folder.name}: fine energy in {len(ratios)} flat places over HR's: mean {sum(ratios) / len(ratios):.2f}, "
        f"largest {max(ratios):.2f}, {over} over 1.5"
    )
    if sheet:
        save_picture(contact_sheet(rows, ("bicubic", METHOD, "HR"), FLAT_PX * 3), sheet)


def stretched(x: Tensor) -> Tensor:
    """Eight times the contrast about each channel's mean, and three times the size."""
    return enlarged(((x - x.mean((-2, -1), keepdim=True)) * 8 + 0.5).clamp(0, 1), 3)


def flat(folder: Path, method: Method) -> Iterator[str]:
    """How far pictures of one colour and ramps are off bicubic enlargement, and off their own colour."""
    for path in sorted(p for p in folder.glob("*") if is_image_name(p)):
        picture = read_image(path)
        x = to_bchw(to_tensor(picture))[:, :3]
        sample = Sample(name=path.stem, x_lq=x, scale=4)
        image = method(sample)
        off = (image if x.unique().numel() > 256 else rounded(image)).sub(bicubic(sample)).abs() * 255
        yield f"{path.name}: off bicubic by at most {off.max():.2f} of 255, {off.mean():.3f} on average"


def main() -> int:
    """Parse the command line, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, nargs="+", default=[], metavar="RESULTS")
    parser.add_argument("--pairs", type=Path, nargs="+", default=[])
    parser.add_argument("--flat", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--sheet", type=Path, help="the flat places, enlarged, with eight times the contrast (PNG)")
    parser.add_argument("--base", help="base model (default: the embedded one)")
    parser.add_argument("--lora", help="LoRA (default: the embedded one)")
    parser.add_argument("--strength", type=float, default=1.0)
    args = parser.parse_args()
    try:
        for results in args.scores:
            print(shares(results))
        choice = ModelChoice(base=args.base, lora=args.lora, device="cpu")
        with ExitStack() as stack:
            method = Model(choice, UpscaleSettings(strength=args.strength), stack)
            for folder in args.pairs:
                for line in colours_and_flat_areas(folder, method, args.sheet):
                    print(line, flush=True)
            for folder in args.flat:
                for line in flat(folder, method):
                    print(line, flush=True)
    except (DfosdError, OSError) as error:
        print(f"picture: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
