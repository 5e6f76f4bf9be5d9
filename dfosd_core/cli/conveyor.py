"""Images one after the other, in three steps: while one is computed, the next is read and the last one written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DfosdError
from ..upscale_file import explain
from .plan import Job

if TYPE_CHECKING:
    from ..image_files.picture import Picture

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to an image. Each raises DfosdError or runs out of memory where it cannot be done."""

    read: Callable[[Job], Picture]
    compute: Callable[[Job, Picture], Picture]
    write: Callable[[Job, Picture], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What has become of an image."""

    job: Job
    size: tuple[int, int] = (0, 0)
    """(height, width) of the result."""
    seconds: float = 0.0
    """Of the three steps together."""
    problem: str | None = None
    """One line, where there is no result."""


class _Item:
    """An image on the conveyor. After a step that failed the others do nothing, so it keeps its place."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.size: tuple[int, int] = (0, 0)
        self.writing: Future[None] | None = None
        self.is_through = False
        """All steps have been taken."""
        self._seconds = 0.0
        self._problem: str | None = None

    def write(self, run: Callable[[Job, Picture], None], larger: Picture | None) -> None:
        """The last step."""
        self.step(run, larger)
        self.is_through = True

    def step(self, run: Callable[..., T], *picture: Picture | None) -> T | None:
        """A mistake of our own is not hidden: it is raised."""
        if self._problem is not None:
            return None
        started = time.perf_counter()
        try:
            return run(self.job, *picture)
        except (DfosdError, RuntimeError, MemoryError) as error:
            from ..tiles.run import is_out_of_memory  # torch, which the process over other processes does without

            if not isinstance(error, DfosdError) and not is_out_of_memory(error):
                raise
            self._problem = explain(error, self.job.source, self.job.target)
            return None
        finally:
            self._seconds += time.perf_counter() - started

    def outcome(self) -> Outcome:
        return Outcome(job=self.job, size=self.size, seconds=self._seconds, problem=self._problem)


def convey(jobs: Iterator[Job], steps: Steps, report: Callable[[Outcome], None]) -> None:
    """Do all `jobs`; `report` is called for each in their order, in this thread, as `steps.compute` is.

    Three images are in memory at most: one read, one computed, one being written. What ends it early, such as
    Ctrl-C, passes through after the image that is being written is on the disk and reported; if it came in the middle
    of a report, that is made again.
    """
    reader, writer = ThreadPoolExecutor(1, "dfosd-read"), ThreadPoolExecutor(1, "dfosd-write")
    behind: _Item | None = None

    def begin_next() -> tuple[_Item, Future[Picture | None]] | None:
        job = next(jobs, None)
        return None if job is None else ((item := _Item(job)), reader.submit(item.step, steps.read))

    def finish_last() -> None:
        nonlocal behind
        if behind is None:
            return
        if behind.writing is None:  # a signal came while it was handed over
            writer.shutdown()
        else:
            _result(behind.writing)
        if behind.is_through:
            report(behind.outcome())
        behind = None  # last: if a signal comes before, this is done again at the end

    try:
        ahead = begin_next()
        while ahead is not None:
            item, picture = ahead[0], _result(ahead[1])
            ahead = begin_next()
            larger = item.step(steps.compute, picture)
            item.size = (0, 0) if larger is None else larger.size
            finish_last()
            behind = item
            item.writing = writer.submit(item.write, steps.write, larger)
            del picture, larger  # or this one would be held while the next is computed
    finally:
        reader.shutdown(wait=False, cancel_futures=True)
        try:
            finish_last()
        finally:
            writer.shutdown(wait=False)


def _result(future: Future[Any]) -> Any:
    while not future.done():
        wait([future], timeout=0.5)  # on Windows a wait without end hears no Ctrl-C
    return future.result()
