"""How far a host is inside one call: for hosts that go through a map in many steps themselves.

The host says it here, and whoever runs the stage listens: so the programs' progress, previews and Stop need no
parameter through everything between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class Inside(NamedTuple):
    """How far a call has come."""

    share: float
    """Of its work, 0 to 1."""
    top: int = 0
    rows: Tensor | None = None
    """(1, C, h, W): rows of the call's result, from its row `top` on, that have just been finished."""


Listener = Callable[[Inside], None]

_listener: ContextVar[Listener | None] = ContextVar("dfosd_inside", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside the `with` block `listener` is called for each `tell`. What it raises comes out of the host's call."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def tell(inside: Inside) -> None:
    """For hosts, after each step: to be stopped there must do no harm."""
    listener = _listener.get()
    if listener is not None:
        listener(inside)
