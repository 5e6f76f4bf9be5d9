"""Images over several processes, one for each device: whoever is free gets the next one.

The processes are started anew (spawn), so nothing is inherited but the environment. Each asks for images and reports
what has become of them; messages go through one pipe for each, whose end is the process's end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ..errors import DfosdError
from .conveyor import Outcome
from .plan import Job
from .progress import Bars
from .reports import Reports
from .stopping import TerminatedError, held_back, terminable
from .streams import prepare_streams
from .work import Task, run_task

if TYPE_CHECKING:
    from ..tiles.run import Progress, ProgressCallback


@dataclass(frozen=True)
class Ask:
    """A process wants an image."""


@dataclass(frozen=True)
class Tiles:
    """How far a process is with an image."""

    name: str
    progress: Progress


def run_in_processes(task: Task, devices: Sequence[str], jobs: Sequence[Job], bars: Bars, reports: Reports) -> None:
    """Do all `jobs`. Raises what one of the processes raises because no model can be had.

    A process that dies is reported with the images that it had; the others go on. What ends the work early, such as
    Ctrl-C, passes through after all processes have ended.
    """
    on_cpu = sum(device == "cpu" for device in devices)
    tasks = [replace(task, choice=replace(task.choice, device=device), sharing=on_cpu) for device in devices]
    pending = iter(jobs)
    workers = [_Worker(number, each) for number, each in enumerate(tasks)]
    try:
        _attend(workers, pending, bars, reports)
        if left := list(pending):
            reports.note(f"{len(left)} images are not done, from '{left[0].source}' on: no process is left.")
    except BaseException:
        for worker in workers:
            worker.stop()
        with suppress(DfosdError):  # the others' of the same kind
            _attend(workers, iter(()), bars, reports, stopped=True)
        raise
    finally:
        for worker in workers:
            worker.end()


def _attend(
    workers: Sequence[_Worker], pending: Iterator[Job], bars: Bars, reports: Reports, *, stopped: bool = False
) -> None:
    """Answer the processes until all have ended."""
    with held_back() as stop_here:
        while running := {worker.connection: worker for worker in workers if worker.is_running}:
            for connection in wait(list(running), timeout=0.5):
                worker = running[connection]  # pyright: ignore[reportArgumentType]
                _answer(worker, pending, bars, reports, stopped=stopped)
                stop_here()
            stop_here()


def _answer(worker: _Worker, pending: Iterator[Job], bars: Bars, reports: Reports, *, stopped: bool) -> None:
    message = worker.receive()
    if isinstance(message, Ask):
        worker.give(next(pending, None))
    elif isinstance(message, Tiles):
        bars.show(message.name, message.progress, worker.number)
    elif isinstance(message, Outcome):
        worker.held = [job for job in worker.held if job != message.job]
        reports.add(message)
    elif isinstance(message, DfosdError):
        raise message
    elif not worker.is_running:
        bars.hide(worker.number)
        if not stopped:
            _report_end(worker, reports)


def _report_end(worker: _Worker, reports: Reports) -> None:
    code = worker.exit_code
    if code == 0 and not worker.held:
        return
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    if code == -getattr(signal, "SIGKILL", 9):
        how += ", as when memory runs out"
    ended = f"The process on {worker.device} ended unexpectedly ({how})"
    if not worker.held:
        reports.note(f"{ended}.")
    for job in worker.held:
        reports.add(Outcome(job=job, problem=f"'{job.source}' is not done. {ended}."))


class _Worker:
    """A process and this end of its pipe."""

    def __init__(self, number: int, task: Task) -> None:
        context = get_context("spawn")
        self.number = number
        self.device = task.choice.device or "cpu"
        self.held: list[Job] = []
        """What it has been given and has not reported."""
        self.is_running = True
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, task), name=f"dfosd-{number}", daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> Any:
        """Its next message; None if it has ended."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.is_running = False
            self._process.join()
            return None

    def give(self, job: Job | None) -> None:
        """Answer its question for an image; None: there is none."""
        if job is not None:
            self.held.append(job)
        with suppress(OSError):  # it has died since: the next `receive` finds out
            self.connection.send(job)

    def stop(self) -> None:
        """Ask it to end at once, with no half file. Where there are no signals it finishes what it has."""
        if os.name == "posix":
            self._process.terminate()

    def end(self) -> None:
        """Make sure that it is gone."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    @property
    def exit_code(self) -> int:
        """Below 0: the signal that ended it."""
        return self._process.exitcode or 0


def _serve(connection: Connection, task: Task) -> None:
    """What a process does. Ctrl-C reaches all processes of a terminal, so it is left to the one that started this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_streams()

    def jobs() -> Iterator[Job]:
        while True:
            connection.send(Ask())
            job = connection.recv()
            if job is None:
                return
            yield job

    def progress_of(job: Job) -> ProgressCallback:
        name = job.source.name
        return lambda progress: connection.send(Tiles(name, replace(progress, tile=None)))

    # When the process that started this one is gone, the pipe is closed and there is nobody to work for.
    with suppress(TerminatedError, EOFError, ConnectionError), terminable():
        try:
            run_task(task, jobs(), connection.send, progress_of)
        except DfosdError as error:  # no model
            connection.send(error)
