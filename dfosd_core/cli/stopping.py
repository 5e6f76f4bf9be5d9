"""SIGTERM as an exception, so that the same clean-up runs as after Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
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
