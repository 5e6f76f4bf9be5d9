"""Noise that belongs to a sample, not to a process: the same numbers for any world size, micro-batch or resume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class SampleNoise:
    """One random generator for each sample of a batch, on the CPU, so that every device sees the same numbers."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = list(generators)

    @classmethod
    def seeded(cls, seed: int, indices: Sequence[int]) -> SampleNoise:
        """The noise of the run's samples `indices`; each row depends on (seed, its index) alone. Both >= 0."""
        states = (np.random.SeedSequence((seed, index)).generate_state(1, np.uint64) for index in indices)
        return cls([torch.Generator().manual_seed(int(state[0])) for state in states])

    def __len__(self) -> int:
        return len(self._generators)

    def randn(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """N(0, 1) of `shape` (B, ...), float32; B must be the number of samples."""
        assert shape[0] == len(self), "one row for each sample"
        return to_device(torch.stack([torch.randn(tuple(shape[1:]), generator=g) for g in self._generators]), device)

    def randint(self, low: int, high: int, device: torch.device | str = "cpu") -> Tensor:
        """Integers (B,) from low to high - 1."""
        return to_device(torch.cat([torch.randint(low, high, (1,), generator=g) for g in self._generators]), device)


Rng = torch.Generator | SampleNoise
"""What the method's training half draws from."""


def randn(rng: Rng, shape: Sequence[int], device: torch.device | str) -> Tensor:
    """N(0, 1) of `shape` (B, ...) on `device`, drawn where `rng` lives."""
    if isinstance(rng, SampleNoise):
        return rng.randn(shape, device)
    return to_device(torch.randn(tuple(shape), generator=rng, device=rng.device), device)


def randint(rng: Rng, low: int, high: int, count: int, device: torch.device | str) -> Tensor:
    """Integers (count,) from low to high - 1 on `device`, drawn where `rng` lives."""
    if isinstance(rng, SampleNoise):
        assert count == len(rng), "one number for each sample"
        return rng.randint(low, high, device)
    return to_device(torch.randint(low, high, (count,), generator=rng, device=rng.device), device)


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """x on `device`. Nobody waits for the copy from the CPU to a GPU, which goes through pinned memory."""
    kind = torch.device(device).type
    if kind == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()  # returns x itself where the loader has pinned it
    # On MPS the copy would read memory that may be another tensor's by then.
    return x.to(device, non_blocking=kind != "mps")
