"""SIGTERM as an exception, so that the same clean-up runs as after Ctrl-C; and both held back for a moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class TerminatedError(BaseException):
    """SIGTERM has come."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside the `with` block, which is in the main thread, SIGTERM raises TerminatedError."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Inside the `with` block, in the main thread, Ctrl-C and SIGTERM come when the function that it yields is called.

    So none falls between receiving a message and keeping what it says.
    """
    came: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hand_on() -> None:
        while came:
            number, frame = came.pop(0)
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

    def keep(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    for number in before:
        signal.signal(number, keep)
    try:
        yield hand_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    hand_on()
