"""Standard output and error as the commands need them: they take any name, and a terminal shows it harmlessly."""

from __future__ import annotations

import logging
import os
import sys

from ..errors import printable


def prepare_streams() -> None:
    """Characters that an encoding lacks are escaped; a stream that the caller has closed swallows what it is given."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def complain(line: str) -> None:
    """A line on standard error."""
    print(f"dfosd: {printable(line)}", file=sys.stderr)


class OneLine(logging.Formatter):
    """Warnings as `complain` says them; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        return f"dfosd: {printable(super().formatMessage(record))}"
