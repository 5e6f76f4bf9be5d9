"""Large maps that are written and read by rows: in memory while they fit a budget, else in temporary files."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from einops import rearrange
from torch import Tensor

from ..tiles.run import is_out_of_memory
from .map_files import FileRows, check_disk
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

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """`device`: where the network is."""
        self._dtype, self._device = dtype, device
        self._free = {torch.device("cpu"): IN_MEMORY}
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
        rows = self._in_memory(shape, size) or FileRows(shape, self._dtype)
        self._open.setdefault(rows, (None, size))
        return Map(rows, height, width, channels, first=1)

    def _in_memory(self, shape: tuple[int, int, int], size: int) -> Rows | None:
        for place in [device for device, free in self._free.items() if size <= free]:
            # A card reads what is page-locked in main memory at its full rate.
            pinned = place.type == "cpu" and self._device.type == "cuda"
            try:
                rows = MemoryRows(torch.empty(shape, dtype=self._dtype, device=place, pin_memory=pinned))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self._free[place] -= size
                self._open[rows] = place, size
                return rows
        return None

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
