"""Large maps that are written and read by rows: in memory while they fit a budget, else in a temporary file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor

from ..errors import DiskSpaceError
from .moments import Moments

IN_MEMORY = 2 * 2**30
"""Bytes of maps that are kept in main memory. What is more goes to disk, or to where the system keeps files."""


class Rows(Protocol):
    """Where a map's rows lie, each (W, C)."""

    def get(self, start: int, stop: int) -> Tensor:
        """(stop - start, W, C), to be read only, and only until these rows are written."""
        ...

    def put(self, start: int, values: Tensor) -> None:
        """Write (h, W, C) from row `start` on."""
        ...

    def close(self) -> None:
        """Give the memory or the disk space back."""
        ...


class Map:
    """(1, C, height, width) with the statistics of what has been written into it."""

    def __init__(self, rows: Rows, height: int, width: int, channels: int, first: int) -> None:
        self.rows, self.height, self.width, self.channels, self.first = rows, height, width, channels, first
        self.moments = Moments()

    def read(self, start: int, stop: int) -> Tensor:
        """(1, C, stop - start, W) in channels-last order, good until these rows are written."""
        return rearrange(self.rows.get(self.first + start, self.first + stop), "h w c -> 1 c h w")

    def write(self, start: int, part: Tensor) -> None:
        """The rows from `start` on, (1, C, h, W)."""
        self.moments.add(part)
        self.rows.put(self.first + start, rearrange(part, "1 c h w -> h w c"))

    def successor(self, above: int) -> Map:
        """A map of the same size in the same place, to be written from the top on while this one is read.

        `above`: how many rows above those that are written are still to be read, 0 or 1.
        """
        return Map(self.rows, self.height, self.width, self.channels, self.first - above)


class Maps:
    """Makes maps of one number format, which are gone when its `with` block ends."""

    def __init__(self, dtype: torch.dtype, device: torch.device, in_memory: int | None = None) -> None:
        """`device`: where the network is. `in_memory`: the budget in bytes, `IN_MEMORY` by default."""
        budget = IN_MEMORY if in_memory is None else in_memory
        self._dtype, self._device = dtype, device
        self._free = {torch.device("cpu"): budget}
        if device.type == "cuda":
            # Half of what is free is left to the computation.
            self._free = {device: torch.cuda.mem_get_info(device)[0] // 2, **self._free}
        self._open: dict[Rows, tuple[torch.device | None, int]] = {}

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *_: object) -> None:
        for rows in list(self._open):
            self._close(rows)

    def new(self, height: int, width: int, channels: int) -> Map:
        """Raises DiskSpaceError when there is no room for it."""
        # One row more than it has: its successor may begin one row higher.
        shape, size = (height + 1, width, channels), (height + 1) * width * channels * self._dtype.itemsize
        place = next((device for device, free in self._free.items() if size <= free), None)
        if place is None:
            rows: Rows = FileRows(shape, self._dtype)
        else:
            # A card reads what is page-locked in main memory at its full rate.
            pinned = place.type == "cpu" and self._device.type == "cuda"
            rows = MemoryRows(torch.empty(shape, dtype=self._dtype, device=place, pin_memory=pinned))
            self._free[place] -= size
        self._open[rows] = place, size
        return Map(rows, height, width, channels, first=1)

    def close(self, used: Map) -> None:
        """It and what it was the successor of are read no more."""
        self._close(used.rows)

    def _close(self, rows: Rows) -> None:
        place, size = self._open.pop(rows)
        if place is not None:
            self._free[place] += size
        rows.close()

    def check_room(self, size: int) -> None:
        """Raises DiskSpaceError if maps of so many bytes together go to disk and find too little room there."""
        if size > max(self._free.values()):
            check_disk(size)


class MemoryRows:
    """In main memory, or in a graphics card's."""

    def __init__(self, values: Tensor) -> None:
        """`values`: (height, width, channels), of any content."""
        self._values: Tensor | None = values

    def get(self, start: int, stop: int) -> Tensor:
        return cast("Tensor", self._values)[start:stop]

    def put(self, start: int, values: Tensor) -> None:
        cast("Tensor", self._values)[start : start + len(values)].copy_(values)

    def close(self) -> None:
        self._values = None


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
    """Where temporary files go: TMPDIR if it is set, else /var/tmp, since /tmp is often in memory itself."""
    usual = Path("/var/tmp")
    is_named = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return usual if not is_named and os.access(usual, os.W_OK) else Path(tempfile.gettempdir())


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
