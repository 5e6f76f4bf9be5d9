"""Signals that are held back."""

from __future__ import annotations

import os
import signal

import pytest

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
