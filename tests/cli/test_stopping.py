"""Signals that are held back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TextIO

import pytest

from dfosd_core.cli.conveyor import Outcome
from dfosd_core.cli.plan import Job
from dfosd_core.cli.progress import Bars
from dfosd_core.cli.reports import Reports
from dfosd_core.cli.stopping import TerminatedError, held_back, terminable


def test_ctrl_c_comes_where_it_is_let_in() -> None:
    kept: list[str] = []

    def receive() -> None:
        with held_back() as stop_here:
            os.kill(os.getpid(), signal.SIGINT)
            kept.append("a message")
            stop_here()
            kept.append("too late")

    with pytest.raises(KeyboardInterrupt):
        receive()
    assert kept == ["a message"]


def test_signal_that_is_never_let_in_comes_at_the_end() -> None:
    kept: list[str] = []

    def receive() -> None:
        with terminable():
            with held_back():
                os.kill(os.getpid(), signal.SIGTERM)
                kept.append("a message")
            kept.append("too late")

    with pytest.raises(TerminatedError):
        receive()
    assert kept == ["a message"]


def test_handlers_are_those_from_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with held_back():
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_line_that_a_stop_comes_upon_is_said_once() -> None:
    jobs = [Job(source=Path(f"{name}.png"), target=Path(f"{name}_x4.png")) for name in "ab"]
    said: list[str] = []

    class StoppedBars(Bars):
        def say(self, line: str, file: TextIO) -> None:
            said.append(line)
            os.kill(os.getpid(), signal.SIGINT)

    reports = Reports(jobs, StoppedBars(2, quiet=True))
    with pytest.raises(KeyboardInterrupt):
        reports.add(Outcome(job=jobs[0], size=(4, 4)))
    reports.close()
    assert [line.split(" -> ")[0] for line in said] == ["a.png"]
