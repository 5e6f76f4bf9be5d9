"""A layer over a map in strips of rows: which rows it reads for a strip, and fewer rows where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from ..tiles.run import is_out_of_memory

logger = logging.getLogger("dfosd")

T = TypeVar("T")


class Reach(NamedTuple):
    """The rows that a layer reads for a row that it writes."""

    above: int = 0
    below: int = 0
    up: int = 1
    down: int = 1
    """`up` rows are written for each `down` rows that are read."""

    def read(self, start: int, stop: int, height: int) -> tuple[int, int]:
        """The rows to read, of `height`, for writing rows `start` to `stop`."""
        first, last = start * self.down // self.up, -(-stop * self.down // self.up)
        return max(first - self.above, 0), min(last + self.below, height)

    def surplus(self, start: int, first: int) -> int:
        """How many rows the layer makes before row `start` when it is given the rows from `first` on.

        They and those after the strip are wrong, since the layer sees a border of the map there that is none.
        """
        return start - first * self.up // self.down


CONV = Reach(1, 1)
DOUBLED = Reach(1, 1, up=2)
HALVED = Reach(0, 1, down=2)
PLACE = Reach()


def strips(compute: Callable[[int, int], T], height: int, rows: int) -> Iterator[tuple[int, int, T]]:
    """(start, stop, `compute(start, stop)`) for strips of `rows` that cover `height`, from the top on.

    A strip that memory does not suffice for is computed again with half the rows, down to one, and so is the rest.
    """
    start, rows = 0, max(min(rows, height), 1)
    while start < height:
        stop = min(start + rows, height)
        try:
            result = compute(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
        else:
            yield start, stop, result
            del result  # or it would be held while the next one is computed
            start = stop
            continue
        # Outside the except block: the traceback, and with it every tensor of the failed strip, is gone by now.
        rows = (stop - start) // 2
        logger.info("Out of memory; going on with strips of %d rows.", rows)
