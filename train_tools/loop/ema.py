"""The exponential moving average of a network's trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """average = d average + (1 - d) parameter after each step, d = min(decay, (1 + n) / (10 + n)) at the n-th.

    The smaller decay at first keeps the start, which nobody wants averaged, from weighing for 1 / (1 - decay) steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        self.averages = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are after an optimiser's step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.averages, list(self.parameters), 1 - decay)  # pyright: ignore[reportPrivateUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in the parameters' place inside the `with` block; every bit comes back after it."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(own)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"averages": self.averages, "updates": self.updates}

    def load(self, state: dict[str, Any] | None) -> None:
        """The inverse of `state`; None (a run that has not averaged so far) starts from the parameters as they are."""
        values = list(self.parameters) if state is None else state["averages"]
        with torch.no_grad():
            for average, value in zip(self.averages, values, strict=True):
                average.copy_(value)
        self.updates = 0 if state is None else state["updates"]

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
