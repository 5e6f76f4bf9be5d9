"""A node's mistake of ours becomes one line on the host's page: `ValueError: ...`.

The host shows the class with its module, and a pack's modules carry the path of its folder: a line of that stands
before a message otherwise. See `full_type_name` in ComfyUI's execution.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ...dfosd_core.errors import DfosdError

P = ParamSpec("P")
T = TypeVar("T")


def with_short_errors(run: Callable[P, T]) -> Callable[P, T]:
    """`run`, a node's method, raising ValueError in place of DfosdError. All else passes: the host knows its own."""

    @functools.wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return run(*args, **kwargs)
        except DfosdError as error:
            raise ValueError(str(error)) from error

    return wrapped
