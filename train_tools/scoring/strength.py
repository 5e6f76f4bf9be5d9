"""What the slider "fidelity or realism" does: one crop at several strengths beside bicubic, and scores on pairs.

    python -m train_tools.scoring.strength examples/photos/pairs -o docs/strength.png

Draws docs/strength.png and prints the table below it. Run it again when the embedded weights have changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dfosd_core.attach import attached
from dfosd_core.host import Host
from dfosd_core.lora.file import DfosdLora
from dfosd_core.models import load_models
from dfosd_core.settings import ModelChoice, UpscaleSettings

from .metrics import FORMATS, mean, score
from .pair_files import Sample, find_pairs, read_pair
from .pictures import SheetRow, contact_sheet, enlarged, save_picture
from .validation import Method, bicubic, restored_by

STRENGTHS = (0.0, 0.5, 1.0, 1.5)
ZOOM = 3


def at_strength(host: Host, lora: DfosdLora, strength: float) -> Method:
    """`pipeline.upscale` at this strength, with the other settings at their defaults."""
    settings = UpscaleSettings(strength=strength)

    def method(sample: Sample) -> Tensor:
        with attached(host, lora, settings) as ready:
            return restored_by(ready, lora, settings)(sample)

    return method


def shown_part(image: Tensor, crop: Sequence[int]) -> Tensor:
    """The square (left, top, edge) of (1, 3, H, W), each of its pixels `ZOOM` pixels wide."""
    left, top, edge = crop
    return enlarged(image[..., top : top + edge, left : left + edge], ZOOM)


def main() -> None:
    """Parse the command line, compute, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="a folder with LR/ and HR/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture (PNG)")
    parser.add_argument("--name", help="the pair that is shown (default: the first)")
    parser.add_argument("--crop", type=int, nargs=3, metavar=("LEFT", "TOP", "EDGE"), default=(30, 52, 88))
    parser.add_argument("--base", help="base model (default: the embedded one)")
    parser.add_argument("--lora", help="LoRA (default: the embedded one)")
    args = parser.parse_args()
    choice = ModelChoice(base=args.base, lora=args.lora, dtype="float32")
    host, lora = load_models(choice, torch.device("cpu"))
    methods = {"bicubic": bicubic} | {f"strength {s:g}": at_strength(host, lora, s) for s in STRENGTHS}
    names = find_pairs(args.pairs)
    pairs = [read_pair(args.pairs, name) for name in names]
    scores = {method: [score(make(pair), pair.x_hr, None) for pair in pairs] for method, make in methods.items()}
    shown = pairs[names.index(args.name) if args.name else 0]
    images = [*(make(shown) for make in methods.values()), shown.x_hr]
    row = SheetRow(images=[shown_part(image, args.crop) for image in images])
    save_picture(contact_sheet([row], (*methods, "original"), args.crop[2] * ZOOM), args.output)
    print("| | " + " | ".join(scores[next(iter(scores))][0]) + " |\n|---|---|---|")
    for method, found in scores.items():
        print(f"| {method} | " + " | ".join(FORMATS[metric](value) for metric, value in mean(found).items()) + " |")


if __name__ == "__main__":
    main()
