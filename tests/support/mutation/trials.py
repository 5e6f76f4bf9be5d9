"""One file of tests against many mutants: collected once, then a forked child for each mutant."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

import pytest
from support.mutation.mutants import Mutant

WALL_S = 900
"""Of a child: longer than that, and it waits for something that does not come."""


class Failures:
    """pytest's plugin that remembers the first test that failed; a file that cannot be imported counts."""

    first = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid

    pytest_collectreport = pytest_runtest_logreport


class Trials(Failures):
    """pytest's plugin. In place of running the tests it finds out what each calls, and tries the mutants of that.

    `report(mutant, test)` is told of each mutant that was tried: by which test it was killed, "time", or "".
    """

    def __init__(
        self, root: Path, mutants: list[Mutant], budget: float, report: Callable[[Mutant, str], None], calls: Path
    ) -> None:
        self.root, self.mutants, self.budget, self.report, self.calls = root, mutants, budget, report, calls

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        if not self.calls.exists():
            in_child(lambda: self._record(list(items.values())), 3 * self.budget, wall=3 * WALL_S)
        calls: dict[str, Any] = json.loads(self.calls.read_text("utf-8")) if self.calls.exists() else {}
        for mutant in self.mutants:
            key = f"{mutant.module}:{mutant.function}"
            hit = [name for name, call in calls.items() if key in call["calls"] and not call["failed"]]
            hit.sort(key=lambda name: calls[name]["seconds"])
            if mutant.function and hit:
                expected = sum(calls[name]["seconds"] for name in hit)
                self.report(mutant, self._tried(mutant, [items[name] for name in hit if name in items], expected))
        return True

    def _record(self, items: list[pytest.Item]) -> str:
        """What each test calls of dfosd_core, its setup included, and its time."""
        seen: set[CodeType] = set()
        shared: set[str] = set()
        kept: dict[str, Any] = {}
        core = str(self.root / "dfosd_core")

        def called(frame: Any, *_: Any) -> None:
            seen.add(frame.f_code)

        threading.settrace(called)
        sys.settrace(called)
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.first, began = "", time.process_time()
            seen.clear()
            shared_before = set(_wide_fixtures(item))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            called_here = [code for code in list(seen) if code.co_filename.startswith(core)]
            named = {f"{self._module(code)}:{_name(code).split('.<locals>')[0]}" for code in called_here}
            if shared_before:  # whoever comes first sets up what all share
                shared |= named
            seconds = time.process_time() - began
            kept[item.nodeid] = {
                "seconds": seconds,
                "failed": bool(self.first),
                "calls": sorted(named | (shared if shared_before else set())),
            }
            self.calls.write_text(json.dumps(kept), encoding="utf-8")
        return ""

    def _module(self, code: CodeType) -> str:
        return Path(code.co_filename).relative_to(self.root).as_posix()

    def _tried(self, mutant: Mutant, items: list[pytest.Item], expected: float) -> str:
        path = self.root / mutant.module

        def work() -> str:
            swap(path, path.read_text("utf-8"))
            self.first = ""
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.first:
                    break
            return self.first

        with in_place(path, mutant):  # for what imports it only now, and for other processes
            return in_child(work, 20 + 5 * min(expected, self.budget))


def _wide_fixtures(item: pytest.Item) -> list[str]:
    found = getattr(item, "_fixtureinfo", None)
    last = [each[-1] for each in found.name2fixturedefs.values()] if found else []
    return [
        each.argname for each in last if each.scope != "function" and not each.argname.startswith(("_", "tmp_path"))
    ]


@contextlib.contextmanager
def in_place(path: Path, mutant: Mutant) -> Iterator[None]:
    """Inside the `with` block the file is the mutant's. Children that import it then leave no bytecode of it."""
    original, when = path.read_text("utf-8"), path.stat().st_mtime
    bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    path.write_text(mutant.source(original), "utf-8")
    try:
        yield
    finally:
        path.write_text(original, "utf-8")
        os.utime(path, (when, when))
        sys.dont_write_bytecode = bytecode
        del os.environ["PYTHONDONTWRITEBYTECODE"]


def swap(path: Path, mutated: str) -> None:
    """Gives every function that the module has made so far the mutant's code."""
    codes = _codes(compile(mutated, str(path), "exec"))
    new = {(_name(code), code.co_firstlineno): code for code in codes}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == str(path):
            code = new.get((_name(thing.__code__), thing.__code__.co_firstlineno))
            if code is not None and len(code.co_freevars) == len(thing.__code__.co_freevars):
                thing.__code__ = code


def _name(code: CodeType) -> str:
    return cast("Any", code).co_qualname  # from Python 3.11 on


def _codes(code: CodeType) -> Iterable[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def in_child(work: Callable[[], str], seconds: float, wall: float = WALL_S) -> str:
    """What `work` returns in a forked child; "time" if it takes more of the processor's time, or waits for ever."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            used = int(time.process_time() + seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (used, used + 2))
            os.write(writing, (work() or " ").encode())
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(writing, f"{type(error).__name__}: {error}"[:200].encode())
        finally:
            os._exit(0)
    os.close(writing)
    end, done = time.monotonic() + wall, 0
    while not done:
        done, _ = os.waitpid(child, os.WNOHANG)
        if not done and time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, 9)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, 9)  # what the tests have started
    os.set_blocking(reading, False)
    try:
        told = os.read(reading, 2000).decode(errors="replace")
    except BlockingIOError:
        told = ""
    os.close(reading)
    return told.strip() if told else "time"
