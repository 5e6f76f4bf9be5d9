"""Files that are either the old ones or the whole new ones, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def write_whole(path: Path, before_rename: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """A binary file that takes `path`'s place when the `with` block ends, having reached the disk.

    After an error or an interruption in the block nothing is left of it, and `path` is as it was. `before_rename` may
    raise to keep it so. Two processes that write the same `path` do not meet: the last to end wins, whole.
    Raises OSError as the file system does.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before_rename is not None:
            before_rename()
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `path` whole, in UTF-8."""
    with write_whole(path) as file:
        file.write(text.encode("utf-8"))


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the name, too, has to reach the disk
    finally:
        os.close(handle)
