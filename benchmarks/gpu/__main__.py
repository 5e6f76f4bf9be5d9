"""Run the next check that has no result yet, on a graphics card; docs/gpu.md says what each is and keeps the results.

    python -m benchmarks.gpu                        # the next one: at most four minutes
    python -m benchmarks.gpu correctness speed      # these
    python -m benchmarks.gpu --list
    python -m benchmarks.gpu --tiny correctness     # tried small, on a CPU

Nothing is needed but this repository and its packages; VGG16's weights are used where they are given. Tables go into
files in the folder that the environment variable OUT names, else in the current one: paste them into docs/gpu.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from .results import CHECKS, PAGE, pending, result_file, run_check
from .setting import Setting


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the checks; 0 if all is as it should be, 1 if not, 2 if nothing can be run."""
    parser = argparse.ArgumentParser(
        prog="gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; none: the next one")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--tiny", action="store_true", help="a narrow base and small images on a CPU: no result")
    parser.add_argument("--vgg", type=Path, help="VGG16's convolutions, vgg16-397923af.pth")
    parser.add_argument("--photos", type=Path, help="photographs to train on (default: the repository's eight)")
    parser.add_argument("--minutes", type=float, default=2.5, help="length of the training")
    args = parser.parse_args(argv)
    out = Path(os.environ.get("OUT") or ".")
    left = pending(out, PAGE.read_text(encoding="utf-8"))
    if args.list:
        for name, words in CHECKS.items():
            state = "to be run" if name in left else "has a result"
            print(f"{name:<12} {state:<13} {words}")
        return 0
    problem = _problem(args.checks, args.tiny, [path for path in (args.vgg, args.photos) if path])
    if problem:
        print(f"gpu: {problem}", file=sys.stderr)
        return 2
    names = args.checks or left[:1]
    if not names:
        print(f"Every check has a result, in docs/gpu.md or in '{out}'. To run one again, name it.")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dfosd-") as work:
        setting = Setting(
            device=torch.device("cpu" if args.tiny else "cuda"),
            work=Path(work),
            out=out,
            tiny=args.tiny,
            vgg=args.vgg,
            photos=args.photos,
            minutes=args.minutes,
        )
        good = [run_check(name, setting) for name in names]
    print("Written: " + ", ".join(str(result_file(out, name, args.tiny)) for name in names))
    return 0 if all(good) else 1


def _problem(checks: Sequence[str], tiny: bool, files: Sequence[Path]) -> str | None:
    """What is wrong with the command, in one line."""
    unknown = [name for name in checks if name not in CHECKS]
    if unknown:
        return f"expected checks of {', '.join(CHECKS)}, found {', '.join(unknown)}."
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        return f"there is no '{missing[0]}'."
    if not tiny and not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU. Give --tiny to try the checks on a CPU."
    return None


if __name__ == "__main__":
    sys.exit(main())
