"""Damages everything that users hand to DFOSD, for as long as you like, and says what went wrong.

    python tests/fuzz.py --seconds 600              all kinds, so many seconds of the processor's time each
    python tests/fuzz.py --kinds lora picture --most 10000 --seed 3 --keep FOLDER

Each input depends on the seed and its number alone. Exit code 1: there were faults. --keep stores their inputs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.fuzz.kinds import KINDS  # noqa: E402  # found by the line above
from support.fuzz.loop import fuzz, peak_bytes  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each kind (default: 60)")
    parser.add_argument("--most", type=int, default=10**9, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    faults = 0
    for name in given.kinds:
        start = peak_bytes()
        with tempfile.TemporaryDirectory() as place:
            tally = fuzz(
                KINDS[name], Path(place), seconds=given.seconds, most=given.most, seed=given.seed, keep=given.keep
            )
        taken = (peak_bytes() - start) / 1e6
        print(
            f"{name}: {tally.tried} inputs, {tally.refused} refused, {len(tally.faults)} faults, "
            f"{tally.seconds:.0f} s, slowest {tally.slowest:.2f} s, {taken:.0f} MB more memory",
            flush=True,
        )
        for fault in tally.faults:
            print(f"  {fault}", flush=True)
        faults += len(tally.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
