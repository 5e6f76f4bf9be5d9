"""Puts small faults into a copy of dfosd_core, one at a time, and sees whether a test notices.

    pip install cosmic-ray
    python tests/mutation.py OUT --count 300 [--tests tests/core/test_settings.py ...]

The mutants are cosmic-ray's, a seeded sample of them. Tests are tried file by file, quick ones first, each against the
mutants of functions that it calls; OUT/trials.tsv has a line for each trial, so the same command goes on where it was
stopped. OUT/mutants.tsv is the summary. POSIX only, Python 3.11 or newer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from support.mutation.mutants import Mutant, sampled  # noqa: E402  # found by the line above

LIBRARIES = ("torch", "numpy", "PIL.Image", "cv2", "einops", "safetensors.torch", "hypothesis", "diffusers.models",
             "peft", "transformers", "gradio", "skimage", "torchmetrics", "accelerate")  # fmt: skip
FILES = ("tests/core", "tests/exchange", "tests/cli", "tests/hosts", "tests/app", "tests", "tests/train")
LEFT_OUT = {
    # Browsers, minutes of work, other processes, or nothing that a mutant can change.
    "tests/app/test_browser.py", "tests/test_architecture.py", "tests/test_packaging.py", "tests/test_readme.py",
    "tests/test_fuzz.py", "tests/train/test_distributed.py", "tests/train/test_kill.py", "tests/train/test_pyiqa.py",
}  # fmt: skip
FILES_OF_AN_IMPORT = 4
BUDGET_S = 40
"""Of the processor's time for the tests of one file that call what was mutated."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="default: all that need no host and no hour")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    out: Path = given.out.resolve()
    (out / "calls").mkdir(parents=True, exist_ok=True)
    mutants = _sample(out, given.seed, given.count)
    _prepare()
    with tempfile.TemporaryDirectory() as place:
        copy = _copied(Path(place) / "copy")
        os.chdir(copy)
        sys.path[:1] = [str(copy), str(copy / "tests")]
        os.environ["PYTHONPATH"] = str(copy)
        for name in given.tests or _test_files():
            _try_file(copy, name, list(mutants), out)
            _summary(mutants, out)
        for mutant in mutants:
            if not mutant.function and not _trials(out).get(_key(mutant)):
                _try_import(copy, mutant, out)
                _summary(mutants, out)
    return 0


def _sample(out: Path, seed: int, count: int) -> dict[Mutant, str]:
    """Each mutant with its changed lines, from OUT if they were drawn before."""
    kept = out / f"sample-{seed}-{count}.json"
    if not kept.exists():
        drawn = [(m, m.shown((ROOT / m.module).read_text("utf-8"))) for m in sampled(ROOT, seed)[:count]]
        kept.write_text(json.dumps([[asdict(mutant), shown] for mutant, shown in drawn], indent=1), "utf-8")
    return {Mutant(**mutant): shown for mutant, shown in json.loads(kept.read_text("utf-8"))}


def _prepare() -> None:
    """Imports what the tests import, without anything of this project. A library that is not there is passed over."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def _copied(copy: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


def _test_files() -> list[str]:
    found = [
        path.relative_to(ROOT).as_posix() for folder in FILES for path in sorted((ROOT / folder).glob("test_*.py"))
    ]
    return [name for name in found if name not in LEFT_OUT]


def _key(mutant: Mutant) -> str:
    return f"{mutant.module}\t{mutant.line}\t{mutant.operator}\t{mutant.occurrence}"


def _trials(out: Path) -> dict[str, dict[str, str]]:
    """Mutant -> file of tests -> the test that killed it, "" if none."""
    found: dict[str, dict[str, str]] = {}
    table = out / "trials.tsv"
    for line in table.read_text("utf-8").splitlines() if table.exists() else []:
        module, number, operator, occurrence, name, test = line.split("\t")
        found.setdefault(f"{module}\t{number}\t{operator}\t{occurrence}", {})[name] = test
    return found


def _try_file(copy: Path, name: str, mutants: list[Mutant], out: Path) -> None:
    """One file against the mutants that no file before it has killed."""
    from support.mutation.trials import Trials, in_child

    tried = _trials(out)
    left = [m for m in mutants if not any(tried.get(_key(m), {}).values()) and name not in tried.get(_key(m), {})]

    def report(mutant: Mutant, test: str) -> None:
        with (out / "trials.tsv").open("a", encoding="utf-8") as stream:
            print(_key(mutant), name, " ".join(test.split()), sep="\t", file=stream)

    def work() -> str:
        calls = out / "calls" / f"{name.replace('/', '+')}.json"
        return str(_run_tests([name], Trials(copy, left, BUDGET_S, report, calls), copy, out))

    if left:
        in_child(work, 1e6, wall=1e6)


def _run_tests(names: list[str], plugin: Any, copy: Path, out: Path, *more: str) -> int:
    """pytest's exit code; to be called in a child. What it prints goes into OUT/last.log."""
    import pytest

    with (out / "last.log").open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "--timeout=0", f"--basetemp={copy.parent / 'temp'}"]
    return pytest.main([*options, *more, *names], plugins=[plugin])


def _try_import(copy: Path, mutant: Mutant, out: Path) -> None:
    """What an import runs: the module is imported anew, for the quickest files of tests that call it."""
    from support.mutation.trials import Failures, in_child, in_place

    costs: dict[str, float] = {}
    for place in (out / "calls").glob("*.json"):
        found = json.loads(place.read_text("utf-8")).values()
        if any(called.startswith(f"{mutant.module}:") for test in found for called in test["calls"]):
            costs[place.stem.replace("+", "/")] = sum(test["seconds"] for test in found)
    names = sorted(costs, key=lambda name: costs[name])[:FILES_OF_AN_IMPORT]

    def work() -> str:
        failures = Failures()
        code = _run_tests(names, failures, copy, out, "-x")
        return failures.first or ("" if code == 0 else f"exit {int(code)}")

    if names:
        with in_place(copy / mutant.module, mutant):
            test = in_child(work, 30 + 5 * sum(costs[name] for name in names))
        with (out / "trials.tsv").open("a", encoding="utf-8") as stream:
            print(_key(mutant), " ".join(names), " ".join(test.split()), sep="\t", file=stream)


def _summary(mutants: dict[Mutant, str], out: Path) -> None:
    tried = _trials(out)
    lines: list[str] = []
    for mutant, shown in mutants.items():
        fates = tried.get(_key(mutant), {})
        by = next((test for test in fates.values() if test), "")
        fate = "killed" if by else "survived" if fates else "untried"
        lines.append(f"{fate}\t{_key(mutant)}\t{mutant.function}\t{by or ' '.join(fates)}\t{shown}")
    (out / "mutants.tsv").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
