"""Damages everything that users hand to DFOSD, for as long as you like, and says what went wrong.

    python tests/fuzz.py --inputs 100000            all kinds, the cheap ones more often
    python tests/fuzz.py --seconds 600              all kinds, so many seconds of the processor's time each
    python tests/fuzz.py --kinds lora picture --inputs 10000 --seed 3 --keep FOLDER

Each input depends on the seed and its number alone. Prints a table in Markdown, then what went wrong: tracebacks, more
than one line, hangs, half files, changed inputs, too much memory. Exit code 1: there were faults. --keep stores their
inputs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.fuzz.kinds import KINDS  # noqa: E402  # found by the line above
from support.fuzz.loop import Tally, fuzz, peak_bytes  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, help="of each kind at most (default: 60, with --inputs no limit)")
    parser.add_argument("--inputs", type=int, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    seconds = given.seconds or (1e9 if given.inputs else 60.0)
    shares = sum(KINDS[name].share for name in given.kinds)
    tallies: dict[str, Tally] = {}
    print(
        "| input | tried | refused in one line | faults | processor s | slowest s | more memory MB |\n"
        + "|---" * 7
        + "|"
    )
    for name in given.kinds:
        start, kind = peak_bytes(), KINDS[name]
        most = -(-given.inputs * kind.share // shares) if given.inputs else 10**9
        with tempfile.TemporaryDirectory() as place:
            tally = tallies[name] = fuzz(
                kind, Path(place), seconds=seconds, most=most, seed=given.seed, keep=given.keep
            )
        _print_row(name, tally, (peak_bytes() - start) / 1e6)
    tried, refused = (sum(getattr(tally, name) for tally in tallies.values()) for name in ("tried", "refused"))
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    print(f"| all | {tried:,} | {refused:,} | {len(faults)} | | | |")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


def _print_row(name: str, tally: Tally, more_mb: float) -> None:
    numbers = f"{tally.tried:,} | {tally.refused:,} | {len(tally.faults)} | {tally.seconds:.0f} | {tally.slowest:.2f}"
    print(f"| {name} | {numbers} | {more_mb:.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
