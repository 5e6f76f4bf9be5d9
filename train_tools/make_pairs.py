"""Make LR/HR pairs for validation and `evaluate` out of photographs: the central crop, and what a degradation leaves.

    python -m train_tools.make_pairs PHOTOS PAIRS [--preset camera] [--size 512] [--seed 0]

Writes PAIRS/HR/NAME.png and PAIRS/LR/NAME.png, smaller by the degradation's scale. Photographs are first reduced to
twice the size. Keep them out of training.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import sys
from pathlib import Path

import numpy as np

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.image_files import READABLE_SUFFIXES, is_image_name
from dfosd_core.training.degradations import DEGRADATIONS

from .scoring.made_pairs import write_pair


def make_pairs(photos: Path, pairs: Path, preset: str = "camera", size: int = 512, seed: int = 0) -> list[str]:
    """Write a pair of each photograph; return the names. Raises ConfigError for none, and for two of one stem."""
    paths = sorted(p for p in photos.glob("*") if is_image_name(p))
    if not paths:
        raise ConfigError(f"No photographs in '{photos}': expected files ending in {', '.join(READABLE_SUFFIXES)}.")
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise ConfigError(f"'{other.name}' and '{path.name}' would both become '{path.stem}.png'. Rename one.")
    degrade, rng = DEGRADATIONS[preset], np.random.default_rng(seed)
    for path in paths:
        write_pair(path, pairs, path.stem, degrade=degrade, size=size, rng=rng)
    return [f"{path.stem}.png" for path in paths]


def main() -> int:
    """Parse the command line and write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--preset", choices=tuple(DEGRADATIONS), default="camera")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        names = make_pairs(args.photos, args.pairs, args.preset, args.size, args.seed)
    except DfosdError as error:
        print(f"make_pairs: {error}", file=sys.stderr)
        return 1
    print(f"{len(names)} pairs in {args.pairs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
