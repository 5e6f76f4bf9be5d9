"""What ends a run before its last step: a request by signal, a loss that is no number, a disk that is full."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from dfosd_core.errors import DfosdError

ONE_REQUEST_S = 5.0
"""Signals within so many seconds of the first are the same request: a launcher such as torchrun hands on to its
processes what the whole process group has got already."""


class DivergedError(DfosdError):
    """A loss or a gradient is no longer a number."""


class NotSavedError(DfosdError):
    """What a run is to keep could not be written."""


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Inside the `with` block the first SIGINT or SIGTERM is noted in the list; a later one acts as ever.

    So it is a request that the run follows after its step, not an exception in the middle of one.
    """
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    began = 0.0

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal began
        if not noted:
            noted.append(number)
            began = time.monotonic()
        elif time.monotonic() - began > ONE_REQUEST_S:
            restore()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def first_not_finite(values: Mapping[str, float], *, loss_scaling: bool) -> str | None:
    """The name of a value that ends the run. With loss scaling the scaler skips a step whose gradients overflow."""
    for name, value in values.items():
        if not math.isfinite(value) and not (loss_scaling and name.startswith("grad/")):
            return name
    return None


def network_of(name: str) -> tuple[str, str]:
    """The network that a value in the log is of, and the setting of its learning rate."""
    of_discriminator = name.split("/")[1] in ("discriminator", "d_real", "d_fake")
    return ("discriminator", "discriminator.lr") if of_discriminator else ("generator", "optim.lr")
