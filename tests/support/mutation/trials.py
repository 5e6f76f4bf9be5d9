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
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, cast

import pytest
from support.mutation.mutants import Mutant

WALL_S = 300
"""Of a child: longer than that, and it waits for something that does not come."""


class Failures:
    """pytest's plugin that remembers the first test that failed; a file that cannot be imported counts."""

    first = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid

    pytest_collectreport = pytest_runtest_logreport


class Record(Failures):
    """pytest's plugin that writes down, for each test that passes, what of dfosd_core it runs, setup included.

    `lines`: module -> the lines that matter. Writes into `file`: test -> {"seconds", "modules", "lines"}.
    """

    def __init__(self, root: Path, lines: Mapping[str, set[int]], file: Path) -> None:
        self.root, self.file = root, file
        self.lines = {str(root / module): numbers for module, numbers in lines.items()}
        self.found: dict[CodeType, tuple[str, set[int]]] = {}
        """Of each function that was called: its file, and which of the lines that matter ran."""
        self.setup: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        shared: set[str] = set()
        kept: dict[str, Any] = {}
        threading.settrace(self._called)
        sys.settrace(self._called)
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            self.first, began, self.setup = "", time.process_time(), set[str]()
            self.found.clear()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            ran = self.setup | self._here()
            if _wide_fixtures(item):  # whoever comes first sets up what all share
                shared |= self.setup
                ran |= shared
            if not self.first:
                modules = {place.partition(":")[0] for place in ran}
                lines = {place for place in ran if ":" in place}
                seconds = time.process_time() - began
                kept[item.nodeid] = {"seconds": seconds, "modules": sorted(modules), "lines": sorted(lines)}
                self.file.write_text(json.dumps(kept), encoding="utf-8")
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.setup = self._here()
        self.found.clear()

    def _called(self, frame: FrameType, *_: Any) -> Any:
        """Called by Python for each function that is entered; gives what is called for its lines, if any matter."""
        code = frame.f_code
        seen = self.found.setdefault(code, (code.co_filename, set()))[1]
        wanted = self.lines.get(code.co_filename)
        if wanted is None or wanted.isdisjoint(_lines_of(code)):
            return None

        def in_line(frame: FrameType, *_: Any) -> Any:
            if frame.f_lineno in wanted:
                seen.add(frame.f_lineno)
            return in_line

        return in_line

    def _here(self) -> set[str]:
        """Modules, and those of their lines that matter as MODULE:LINE."""
        core, start = str(self.root / "dfosd_core"), len(str(self.root)) + 1
        ours = [(name[start:], lines) for name, lines in list(self.found.values()) if name.startswith(core)]
        return {module for module, _ in ours} | {f"{module}:{line}" for module, lines in ours for line in lines}


@cache
def _lines_of(code: CodeType) -> frozenset[int]:
    return frozenset(line for _, _, line in code.co_lines() if line)


class Trials(Failures):
    """pytest's plugin. In place of running all tests, it runs those that are wanted for each mutant.

    `wanted`: mutant -> the names of the tests and the seconds that they take without it.
    `report(mutant, test)` is told of each mutant that was tried: by which test it was killed, "time", or "".
    """

    def __init__(
        self, root: Path, wanted: Mapping[Mutant, Mapping[str, float]], report: Callable[[Mutant, str], None]
    ) -> None:
        self.root, self.wanted, self.report = root, wanted, report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for mutant, tests in self.wanted.items():
            chosen = [items[name] for name in tests if name in items]
            if chosen:
                self.report(mutant, self._tried(mutant, chosen, sum(tests.values())))
        return True

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
            return in_child(work, 10 + 5 * expected)


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
