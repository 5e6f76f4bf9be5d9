"""A contender of `benchmarks.compare` in a process of its own: its peak memory is its own, and turns can be taken."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from .contenders import GROUPS
from .speed import peak_mib


class Entrant:
    """A contender in its own process. Raises EOFError where that process ends, as one without memory does."""

    def __init__(self, group: str, index: int, base: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, group, index, base), daemon=True)
        self.process.start()
        theirs.close()
        self.peak_mib = 0.0
        """Of the process, after the last run."""

    def run(self, image: Tensor) -> float:
        """(1, H, W, 3) in [0, 1] -> seconds."""
        self.pipe.send(image.numpy())
        seconds, self.peak_mib = self.pipe.recv()
        return seconds

    def result_of(self, image: Tensor) -> Tensor:
        """What it makes of `image`."""
        self.run(image)
        self.pipe.send("result")
        return torch.from_numpy(self.pipe.recv())

    def close(self) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join()


def serve(pipe: Connection, group: str, index: int, base: Path) -> None:
    """The process's side: run each image that comes, say how long it took, and hand the last result over if asked."""
    row = GROUPS[group].rows[index]
    with row.opened(base, getattr(torch, row.numbers)) as run:
        result = torch.empty(0)
        while (asked := pipe.recv()) is not None:
            if isinstance(asked, str):
                pipe.send(result.numpy())
                continue
            began = time.perf_counter()
            result = run(torch.from_numpy(asked))
            pipe.send((time.perf_counter() - began, peak_mib()))
