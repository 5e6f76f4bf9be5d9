"""Puts small faults into a copy of dfosd_core, one at a time, and sees whether a test notices.

    pip install cosmic-ray
    python tests/mutation.py OUT --count 300                             the whole sample
    python tests/mutation.py OUT --count 300 --again tests/core/test_x.py ...   survivors, with changed tests
    python tests/mutation.py OUT --count 300 --report docs/results/mutants.md

The mutants are cosmic-ray's, a seeded sample of them. First each file of tests runs once, and what every test runs of
the sampled lines is kept in OUT/runs; then each mutant meets the quickest tests that run its line, file by file. What
an import runs is tried by importing it anew. OUT/trials.tsv has a line for each trial, so the same command goes on
where it was stopped. OUT/mutants.tsv is the summary. POSIX only, Python 3.11 or newer.
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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from support.mutation.mutants import Mutant, sampled  # noqa: E402  # found by the line above
from support.mutation.report import fates, key_of, summary, write_report  # noqa: E402

LIBRARIES = ("torch", "numpy", "PIL.Image", "cv2", "einops", "safetensors.torch", "hypothesis", "diffusers.models",
             "peft", "transformers", "gradio", "skimage", "torchmetrics", "accelerate")  # fmt: skip
FILES = ("tests/core", "tests/exchange", "tests/cli", "tests/hosts", "tests/app", "tests", "tests/train")
LEFT_OUT = {
    # Browsers, minutes of work, other processes, or nothing that a mutant can change.
    "tests/app/test_browser.py", "tests/test_architecture.py", "tests/test_packaging.py", "tests/test_readme.py",
    "tests/train/test_distributed.py", "tests/train/test_kill.py", "tests/train/test_pyiqa.py",
}  # fmt: skip
RECORD_S, TRIAL_S, IMPORT_S = 60, 20, 5
"""Of the processor's time: for one file's record; for one mutant, by the tests' own times; of those for an import."""
FILES_OF_AN_IMPORT = 4
OF_THE_SOURCE = (
    "tests/test_architecture.py::test_dataclasses_are_frozen_but_for_those_that_hold_state",
    "tests/test_architecture.py::test_private_fields_are_no_arguments",
)
"""Tests that read the source as text: tried beside those that need the module."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--again", nargs="+", default=[], metavar="FILE", help="only these files, whatever was tried")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the page and end")
    given = parser.parse_args()
    out: Path = given.out.resolve()
    (out / "runs").mkdir(parents=True, exist_ok=True)
    mutants = _sample(out, given.seed, given.count)
    if given.report:
        write_report(
            mutants, out, given.report, f"python tests/mutation.py OUT --count {given.count} --seed {given.seed}"
        )
        return 0
    _prepare()
    with tempfile.TemporaryDirectory() as place:
        copy = _copied(Path(place).resolve() / "copy")
        os.chdir(copy)
        sys.path[:1] = [str(copy), str(copy / "tests")]
        os.environ["PYTHONPATH"] = str(copy)
        names = given.again or _test_files()
        for name in names:
            _record(copy, name, list(mutants), out, again=bool(given.again))
        runs = {name: _read(_run_file(out, name)) for name in names}
        wanted = _wanted(copy, list(mutants), runs)
        for name in names:
            _try_file(copy, name, wanted[name], out, again=bool(given.again))
            summary(mutants, out)
        for mutant in mutants:
            if not mutant.function:
                _try_import(copy, mutant, runs, out, again=bool(given.again))
                summary(mutants, out)
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
    """Those that name what they test of dfosd_core; the others train whole runs."""
    paths = [path for folder in FILES for path in sorted((ROOT / folder).glob("test_*.py"))]
    named = [path for path in paths if path.parent.name != "train" or "dfosd_core" in path.read_text("utf-8")]
    return [name for path in named if (name := path.relative_to(ROOT).as_posix()) not in LEFT_OUT]


def _run_file(out: Path, name: str) -> Path:
    return out / "runs" / f"{name.replace('/', '+')}.json"


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _record(copy: Path, name: str, mutants: list[Mutant], out: Path, *, again: bool) -> None:
    """What each test of the file runs, into OUT/runs."""
    from support.mutation.trials import Record, in_child

    file = _run_file(out, name)
    if file.exists() and not again:
        return
    file.write_text("{}", "utf-8")  # stays so if none of its tests passes
    lines: dict[str, set[int]] = defaultdict(set)
    for mutant in mutants:
        first, last = mutant.statement((copy / mutant.module).read_text("utf-8"))
        lines[mutant.module].update(range(first, last + 1))
    in_child(lambda: str(_run_tests([name], Record(copy, lines, file), copy, out)), RECORD_S)


def _wanted(
    copy: Path, mutants: list[Mutant], runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[Mutant, dict[str, float]]]:
    """File of tests -> mutant -> the quickest tests that run its statement -> their seconds; TRIAL_S in all."""
    chosen: dict[str, dict[Mutant, dict[str, float]]] = {name: {} for name in runs}
    for mutant in mutants:
        first, last = mutant.statement((copy / mutant.module).read_text("utf-8"))
        lines = {f"{mutant.module}:{line}" for line in range(first, last + 1)}
        hits = [
            (facts["seconds"], name, test)
            for name, tests in runs.items()
            for test, facts in tests.items()
            if mutant.function and not lines.isdisjoint(facts["lines"])
        ]
        spent = 0.0
        for seconds, name, test in sorted(hits):
            if spent and spent + seconds > TRIAL_S:
                break
            spent += seconds
            chosen[name].setdefault(mutant, {})[test] = seconds
    return chosen


def _try_file(copy: Path, name: str, wanted: Mapping[Mutant, dict[str, float]], out: Path, *, again: bool) -> None:
    """One file against the mutants that no file before it has killed."""
    from support.mutation.trials import Trials, in_child

    tried = fates(out)
    left = {
        mutant: tests
        for mutant, tests in wanted.items()
        if not any(tried.get(key_of(mutant), {}).values()) and (again or name not in tried.get(key_of(mutant), {}))
    }

    def work() -> str:
        return str(
            _run_tests([name], Trials(copy, left, lambda mutant, test: _note(out, mutant, name, test)), copy, out)
        )

    if left:
        in_child(work, 1e6, wall=1e6)


def _note(out: Path, mutant: Mutant, names: str, test: str) -> None:
    with (out / "trials.tsv").open("a", encoding="utf-8") as stream:
        print(key_of(mutant), names, " ".join(test.split()), sep="\t", file=stream)


def _run_tests(names: Sequence[str], plugin: Any, copy: Path, out: Path, *more: str) -> int:
    """pytest's exit code; to be called in a child. What it prints goes into OUT/last.log."""
    import pytest

    with (out / "last.log").open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "--timeout=0", f"--basetemp={copy.parent / 'temp'}"]
    return pytest.main([*options, *more, *names], plugins=[plugin])


def _try_import(copy: Path, mutant: Mutant, runs: Mapping[str, Mapping[str, Any]], out: Path, *, again: bool) -> None:
    """What an import runs: the module is imported anew, by the files whose tests need it, those that name it first."""
    from support.mutation.trials import Failures, in_child, in_place

    before = fates(out).get(key_of(mutant), {})
    tests = _tests_of_module(copy, mutant.module, runs)
    if any(before.values()) or (before and not again) or not tests:
        return

    def work() -> str:
        failures = Failures()
        code = _run_tests([*tests, *OF_THE_SOURCE], failures, copy, out, "-x")
        return failures.first or ("" if code == 0 else f"exit {int(code)}")

    with in_place(copy / mutant.module, mutant):
        test = in_child(work, 60 + 5 * sum(tests.values()))
    _note(out, mutant, " ".join(dict.fromkeys(name.partition("::")[0] for name in (*tests, *OF_THE_SOURCE))), test)


def _tests_of_module(copy: Path, module: str, runs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The quickest tests that need the module, of a few files, and their seconds."""
    dotted = module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    needing: list[tuple[bool, float, dict[str, float]]] = []
    for name, tests in runs.items():
        needed = {test: facts["seconds"] for test, facts in tests.items() if module in facts["modules"]}
        named = f"from {dotted} import" in (copy / name).read_text("utf-8")
        if needed:
            needing.append((not named, sum(needed.values()), needed))
    chosen: dict[str, float] = {}
    for _, _, needed in sorted(needing, key=lambda each: each[:2])[:FILES_OF_AN_IMPORT]:
        spent = 0.0
        for test, seconds in sorted(needed.items(), key=lambda each: each[1]):
            spent += seconds
            if spent > IMPORT_S and chosen:
                break
            chosen[test] = seconds
    return chosen


if __name__ == "__main__":
    sys.exit(main())
