"""A map's rows in a temporary file, and whether there is room for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ..errors import DiskSpaceError


class FileRows:
    """In a file without a name, which is gone when it is closed or the process ends.

    Plainly read and written: pages of a mapped file would count as the process's memory.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self._width, self._channels = shape[1:]
        self._dtype = dtype
        check_disk(shape[0] * self._row_bytes)
        self._file = cast("BinaryIO", tempfile.TemporaryFile(dir=folder()))  # noqa: SIM115

    @property
    def _row_bytes(self) -> int:
        return self._width * self._channels * self._dtype.itemsize

    def get(self, start: int, stop: int) -> Tensor:
        values = torch.empty(stop - start, self._width, self._channels, dtype=self._dtype)
        with _disk_errors(values.nbytes):
            self._file.seek(start * self._row_bytes)
            read = self._file.readinto(_bytes_of(values))  # pyright: ignore[reportAttributeAccessIssue]
        assert read == values.nbytes
        return values

    def put(self, start: int, values: Tensor) -> None:
        values = values.to("cpu", self._dtype).contiguous()
        with _disk_errors(values.nbytes):
            self._file.seek(start * self._row_bytes)
            self._file.write(_bytes_of(values))

    def close(self) -> None:
        with suppress(OSError):  # what is still in Python's buffer is of no use to anyone, and may find no room
            self._file.close()


def folder() -> Path:
    """Where temporary files go: /var/tmp in place of /tmp, which is often in memory itself, else where TMPDIR says."""
    chosen, roomier = Path(tempfile.gettempdir()), Path("/var/tmp")
    return roomier if chosen == Path("/tmp") and os.access(roomier, os.W_OK) else chosen


def check_disk(size: int) -> None:
    """Raises DiskSpaceError when `folder()` has no room for so many bytes."""
    free = shutil.disk_usage(folder()).free
    if size > free:
        raise _no_room(size, f"found {free / 1e9:.1f} GB")


@contextmanager
def _disk_errors(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _no_room(size, error.strerror or str(error)) from error


def _no_room(size: int, found: str) -> DiskSpaceError:
    return DiskSpaceError(
        f"Expected {size / 1e9:.1f} GB of free disk space in '{folder()}' for the autoencoder's maps, {found}. Free "
        "some, name another folder in TMPDIR, or set a VAE tile: tiles are not exact, but need no disk."
    )


def _bytes_of(values: Tensor) -> memoryview:
    return memoryview(cast("Any", values.view(torch.uint8).numpy())).cast("B")
