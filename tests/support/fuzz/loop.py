"""Inputs until a budget is used up: what becomes of each, how long it takes, and what is left behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dfosd_core.errors import DfosdError

HANG_S = 20
"""Of the processor's time, on one input."""
MOST_BYTES = 2_500_000_000
"""More than the process had at first: 100 megapixels, the largest picture that is read, in a few copies."""


class HangError(BaseException):
    """An input has taken too long."""


@dataclass(frozen=True)
class Kind:
    """A kind of input. `draw` makes one into the given file or folder; `use` does with it what a user would.

    `use` raises DfosdError for what is refused. It is given an empty folder besides, in which nothing half may stay.
    """

    name: str
    draw: Callable[[Random, Path], Path]
    use: Callable[[Path, Path], None]
    share: int = 1
    """Of a budget of inputs for several kinds: the cheap ones get more."""


@dataclass
class Tally:
    """What became of one kind's inputs."""

    tried: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=lambda: [])
    seconds: float = 0.0
    slowest: float = 0.0


def fuzz(kind: Kind, place: Path, *, seconds: float, most: int, seed: int, keep: Path | None = None) -> Tally:
    """Inputs number 0 to at most `most`; each depends on `seed` and its number alone. `keep`: gets those at fault."""
    tally, end = Tally(), time.process_time() + seconds
    while tally.tried < most and time.process_time() < end:
        number = tally.tried
        began = time.process_time()
        fault = _one(kind, place, f"{kind.name}-{seed}-{number}", tally, keep)
        took = time.process_time() - began
        tally.tried += 1
        tally.seconds += took
        tally.slowest = max(tally.slowest, took)
        if fault:
            tally.faults.append(f"{kind.name} --seed {seed} number {number}: {fault}")
            if len(tally.faults) >= 20:
                break
    return tally


def _one(kind: Kind, place: Path, name: str, tally: Tally, keep: Path | None) -> str:
    for old in place.iterdir():
        _remove(old)
    drawn, out = place / "input", place / "out"
    drawn.mkdir()
    out.mkdir()
    before = peak_bytes()
    path = kind.draw(Random(name), drawn)
    given, fault = _stamps(drawn), ""
    try:
        with _in_time(), _silent():
            kind.use(path, out)
    except DfosdError as error:
        tally.refused += 1
        fault = wrong_line(str(error))
    except HangError:
        fault = f"not done in {HANG_S} s: {traceback.format_exc().splitlines()[-3].strip()}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
        fault = f"{type(error).__name__}: {str(error)[:150]!r} at {where}"
    if not fault and peak_bytes() - before > MOST_BYTES:
        fault = f"took {(peak_bytes() - before) / 1e9:.1f} GB"
    left = [found.name for found in out.rglob("*") if found.name.endswith(".part")]
    fault = fault or (f"left {left[0]}" if left else "")
    fault = fault or ("the input is not as it was" if _stamps(drawn) != given else "")
    if fault and keep:
        shutil.move(path, keep / f"{name}{path.suffix}")
    return fault


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each file with its size and the time of its last change."""
    return {path: (found.st_size, found.st_mtime_ns) for path in folder.rglob("*") if (found := path.lstat())}


def wrong_line(text: str) -> str:
    """What is wrong with a message; "" for one printable line."""
    if not text.isprintable() and not all(c.isprintable() or c in "\u00a0\u3000" for c in text):
        return f"a message that is no printable line: {text[:150]!r}"
    return "" if 10 < len(text) < 1500 else f"a message of {len(text)} characters"


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what Pillow's libraries and our own log say on standard error."""
    sys.stderr.flush()
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            _remove(inside)
        path.rmdir()
    else:
        path.unlink()
