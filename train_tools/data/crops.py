"""From photographs to micro-batches of x_lr and x_hr (docs/method.md, "Training" and "Degradation").

Nothing here has a position: sample k of a run is a function of (seed, k), so workers, processes, micro-batches and
stops don't change what a step sees. k = step * batch_size + position in the batch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dfosd_core import images
from dfosd_core.errors import ConfigError
from dfosd_core.training.degradations import DEGRADATIONS

from ..settings.config import DataConfig
from .photos import CropSource, PhotoFolder
from .prepared_set import PreparedSet, is_prepared


class MicroBatch(NamedTuple):
    """What one process takes through the networks at once."""

    indices: list[int]
    """k of each sample, over the whole run."""
    x_lr: Tensor
    """(B, 3, crop, crop) in [-1, 1]: degraded and resized back."""
    x_hr: Tensor
    """(B, 3, crop, crop) in [-1, 1]."""


class CropDataset(Dataset[tuple[Tensor, Tensor]]):
    """Sample k -> (x_lr, x_hr), each (3, crop, crop) float32 in [-1, 1]."""

    def __init__(self, source: CropSource, presets: list[str], seed: int) -> None:
        self.source, self.seed = source, seed
        self.degradations = [DEGRADATIONS[name] for name in presets]

    @classmethod
    def open(cls, config: DataConfig, seed: int) -> CropDataset:
        """`config.photos` is a prepared set or a folder of photographs. Raises ConfigError if it is neither."""
        kind = PreparedSet if is_prepared(config.photos) else PhotoFolder
        return cls(kind(config.photos, config.crop), list(config.presets), seed)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, k))
        crop = self.source.cut(rng)
        if rng.integers(2):
            crop = crop[:, ::-1]
        x_hr = images.to_bchw(torch.from_numpy(crop[None].copy())).float().div_(255)
        degrade = self.degradations[int(rng.integers(len(self.degradations)))]
        x_lq = degrade(x_hr, rng)
        x_lr = images.resize(x_lq, (x_hr.shape[-2], x_hr.shape[-1])).clamp(0, 1)
        return images.to_signed(x_lr)[0], images.to_signed(x_hr)[0]


@dataclass(frozen=True, kw_only=True)
class MicroBatchSampler(Sampler[list[int]]):
    """Which samples one process takes in which order: its contiguous share of each step's batch, in micro-batches."""

    steps: int
    """Steps of the whole run: the last one is steps - 1."""
    batch_size: int
    """A multiple of world."""
    micro_batch: int
    first_step: int = 0
    rank: int = 0
    world: int = 1

    def step(self, step: int) -> Iterator[list[int]]:
        """The micro-batches of one step; the last one may be smaller."""
        count = self.batch_size // self.world
        first = step * self.batch_size + self.rank * count
        share = range(first, first + count)
        for start in range(0, count, self.micro_batch):
            yield list(share[start : start + self.micro_batch])

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            yield from self.step(step)


class _MicroBatches(Dataset[MicroBatch | ConfigError]):
    def __init__(self, crops: CropDataset) -> None:
        self.crops = crops

    def __getitem__(self, indices: list[int]) -> MicroBatch | ConfigError:
        try:
            x_lr, x_hr = zip(*(self.crops[k] for k in indices), strict=True)
        except ConfigError as error:
            return error  # raised in a worker it would arrive wrapped in that process's traceback
        return MicroBatch(indices, torch.stack(x_lr), torch.stack(x_hr))


def batches(dataset: CropDataset, sampler: MicroBatchSampler, workers: int) -> Iterator[list[MicroBatch]]:
    """The sampler's micro-batches step by step, made ahead by `workers`. Raises ConfigError for what cannot be read."""
    loader = DataLoader(
        _MicroBatches(dataset),
        batch_size=None,  # the sampler's items are whole micro-batches
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    ready = iter(loader)
    for step in range(sampler.first_step, sampler.steps):
        yield [_next(ready) for _ in sampler.step(step)]


def _next(ready: Iterator[MicroBatch | ConfigError]) -> MicroBatch:
    try:
        batch = next(ready)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ConfigError(
            "A process that prepares crops has died, most likely for lack of memory (in a container: of shared memory, "
            "--shm-size). Lower data.workers."
        ) from error
    if isinstance(batch, ConfigError):
        raise batch
    return batch


def _ignore_interrupts(_worker: int) -> None:
    # Ctrl-C reaches the whole group; the main process finishes its step and needs the batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
