"""From photographs to micro-batches of x_lr and x_hr (docs/method.md, "Training" and "Degradation").

Nothing here has a position: sample k of a run is a function of (seed, k), so workers, processes, micro-batches and
stops don't change what a step sees. k = step * batch_size + position in the batch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
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
from .photos import CropSource
from .sources import open_source


class MicroBatch(NamedTuple):
    """What one process takes through the networks at once."""

    indices: list[int]
    """k of each sample, over the whole run."""
    x_lr: Tensor
    """(B, 3, crop, crop) in [-1, 1]: degraded and resized back."""
    x_hr: Tensor
    """(B, 3, crop, crop) in [-1, 1]."""
    unreadable: dict[str, str] = {}  # noqa: RUF012 - never written
    """Files that were found unreadable on the way, each with the reason."""


class CropDataset(Dataset[tuple[Tensor, Tensor]]):
    """Sample k -> (x_lr, x_hr), each (3, crop, crop) float32 in [-1, 1]."""

    def __init__(self, source: CropSource, presets: list[str], seed: int) -> None:
        self.source, self.seed = source, seed
        self.degradations = [DEGRADATIONS[name] for name in presets]

    @classmethod
    def open(cls, config: DataConfig, seed: int) -> CropDataset:
        """Raises ConfigError if one of `config.photos` is neither a prepared set nor a folder of photographs."""
        return cls(open_source(config.folders(), config.crop), list(config.presets), seed)

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
        return MicroBatch(indices, torch.stack(x_lr), torch.stack(x_hr), self.crops.source.take_unreadable())


def batches(
    dataset: CropDataset, sampler: MicroBatchSampler, workers: int, say: Callable[[str], None] | None = None
) -> Iterator[list[MicroBatch]]:
    """The sampler's micro-batches step by step, made ahead by `workers`.

    say: gets a line for each file that is passed over because it cannot be read. Raises ConfigError for too many.
    """
    report = _Report(dataset.source, say or (lambda _: None))
    report.take(dataset.source.take_unreadable())  # found as the set was opened
    loader = DataLoader(
        _MicroBatches(dataset),
        batch_size=None,  # the sampler's items are whole micro-batches
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_leave_the_group if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    ready = iter(loader)
    for step in range(sampler.first_step, sampler.steps):
        micro_batches = [_next(ready) for _ in sampler.step(step)]
        for micro_batch in micro_batches:
            report.take(micro_batch.unreadable)
        yield micro_batches


class _Report:
    """Tells of each unreadable file once, whichever worker has found it."""

    def __init__(self, source: CropSource, say: Callable[[str], None]) -> None:
        self.source, self.say = source, say
        self.told = set[str]()

    def take(self, found: dict[str, str]) -> None:
        for file in found.keys() - self.told:
            self.say(f"Skipped: {found[file]}")
        self.told |= found.keys()
        self.source.refuse_unreadable(found)
        self.source.take_unreadable()  # they have been told of


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


def _leave_the_group(_worker: int) -> None:
    """Take no part in a Ctrl-C or SIGTERM: the main process finishes its step and needs the batch.

    SIGTERM reaches each process by itself where systemd or pkill ends a run. A worker ends when the main process tells
    it to, through its queue, or is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
