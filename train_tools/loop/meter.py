"""Means of what each step reports, and how long the loop waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Meter:
    """Collects values until they are logged. `values` goes into checkpoints, so that a resumed line is whole."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take in one step's values."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def take_means(self) -> dict[str, float]:
        """The mean of each value over the steps that had it; forgets them."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.values = {}
        return means


def timed(items: Iterable[T]) -> Iterator[tuple[float, T]]:
    """Each item with the seconds that were spent waiting for it."""
    iterator = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield time.perf_counter() - began, item
