"""Lines for people on streams that may be closed, full, or unable to print a name: none of that ends the work."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from ..errors import printable


class _OneLine(logging.Formatter):
    """The message with control characters escaped; below it a traceback as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))


def prepare_streams() -> None:
    """To be called once in a process, before anything is said."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("dfosd: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def say(line: str, file: TextIO) -> None:
    """A line that leaves bars whole. Where it cannot be written it is lost, and so are the later ones."""
    try:
        from tqdm import tqdm  # not for a line of help

        write = tqdm.write
    except ModuleNotFoundError:  # a line has to say that it is missing
        write = print
    try:
        write(printable(line), file=file)
        file.flush()
    except OSError:
        give_up(file)


def complain(line: str) -> None:
    """A line on standard error, with the program's name before it."""
    say(f"dfosd: {line}", sys.stderr)


def give_up(file: TextIO) -> None:
    """What is left in it goes nowhere, so that Python does not fail over it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
