"""What is said about a file while it is upscaled: the lines that `dfosd upscale` prints, kept for the page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import printable


@contextmanager
def notes_taken() -> Iterator[list[str]]:
    """Yields a list that is given each line this thread warns of inside the block. The log has them too."""
    listener = _Listener()
    logger = logging.getLogger("dfosd")
    logger.addHandler(listener)
    try:
        yield listener.lines
    finally:
        logger.removeHandler(listener)


def short_notes(lines: Sequence[str], *files: Path) -> tuple[str, ...]:
    """Each once, to stand beside the result: without the names of `files` in front, as sentences."""
    notes: list[str] = []
    for line in lines:
        for file in files:
            line = line.removeprefix(f"'{file}': ").replace(str(file), file.name)
        notes.append(printable(line[:1].upper() + line[1:]))
    return tuple(dict.fromkeys(notes))


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread and record.levelno == logging.WARNING:
            self.lines.append(record.getMessage())
