"""The pipeline's stages, tile by tile: one progress over all of them, smaller tiles when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ..freed_memory import give_back_freed_memory
from .grid import TileGrid, tiled_apply
from .progress import FinishedTile, Function, Progress, ProgressCallback, Ticker
from .size import TileSize

__all__ = ["FinishedTile", "Progress", "ProgressCallback", "Stage", "TiledRun", "with_smaller_tiles_on_oom"]

logger = logging.getLogger("dfosd")

MIN_TILE_PX = 128
"""Tiles are never halved below this: the networks see too little of the picture in less."""
LARGE_BYTES = 2**26
"""From such an image on, what is free after it is given back: the next image's blocks do not fit where its were."""
VERY_LARGE_BYTES = 2**28
"""From such an image on, the same after each of its stages."""
MEMORY_ADVICE = "Free some memory or use a smaller scale."
"""What a user can do: smaller tiles have been tried by then."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One pass over the image: its name, its tiles in latents, samples a latent on the way in and out."""

    name: str
    size: TileSize
    in_factor: int = 1
    out_factor: int = 1


class TiledRun:
    """The stages over `images` equally large images, each `height` x `width` latents, in the order given."""

    def __init__(
        self,
        stages: list[Stage],
        latent_size: tuple[int, int],
        *,
        align: int,
        minimum: int,
        images: int = 1,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._sizes = {stage.name: stage.size.aligned(align) for stage in stages}
        self._latent_size = latent_size
        self._align = align
        self._minimum = minimum
        self._progress = progress
        self._counts = [self._count(self._sizes[stage.name]) for stage in stages] * images
        self._step = 0

    def __call__(self, name: str, fn: Function, x: Tensor, *, then: Function | None = None) -> Tensor:
        """Run the next stage, `name`: (1, C, h * in, w * in) -> (1, C', h * out, w * out) float32.

        then: what is done to every value that `fn` gives, also to those that are only shown.
        """
        stage = self._stages[name]
        finish = then or _same

        def run(size: TileSize) -> Tensor:
            grid = self._grid(size)
            self._sizes[name] = size  # the next image starts with what worked for this one
            self._counts[self._step] = self._count(size)
            apply = partial(tiled_apply, x=x, grid=grid, in_factor=stage.in_factor, out_factor=stage.out_factor)
            if self._progress is None:
                return apply(lambda part: finish(fn(part)))
            ticker = self._ticker(self._progress, stage, finish, len(grid))
            return apply(ticker.listening(lambda part: finish(fn(part)), grid), on_tile=ticker.finished)

        longest = max(self._latent_size)
        y = with_smaller_tiles_on_oom(run, self._sizes[name], longest, self._align, self._minimum)
        self._step += 1
        is_last = self._step % len(self._stages) == 0
        if max(x.nbytes, y.nbytes) >= (LARGE_BYTES if is_last else VERY_LARGE_BYTES):
            give_back_freed_memory()
        return y

    def _grid(self, size: TileSize) -> TileGrid:
        return TileGrid(*self._latent_size, size, self._align)

    def _count(self, size: TileSize) -> int:
        tiles = len(self._grid(size))
        return size.parts if tiles == 1 else tiles

    def _ticker(self, report: ProgressCallback, stage: Stage, then: Function, tiles: int) -> Ticker:
        height, width = self._latent_size
        return Ticker(
            report=report,
            phase=stage.name,
            image=self._step // len(self._stages),
            size=(height * stage.out_factor, width * stage.out_factor),
            factor=stage.out_factor,
            then=then,
            done=sum(self._counts[: self._step]),
            total=sum(self._counts),
            parts=self._counts[self._step] // tiles,
        )


def _same(y: Tensor) -> Tensor:
    return y


def with_smaller_tiles_on_oom(
    run: Callable[[TileSize], T], size: TileSize, longest: int, align: int = 1, minimum: int = 1
) -> T:
    """`run(size)`; out of memory, again with half the tile, and so on while a tile is at least `minimum`.

    `longest` is the map's longer edge, from which an untiled run is halved. When no smaller tile is left the
    error is raised again, of its own type so that hosts know it, with a line that says what was tried.
    """
    while True:
        try:
            return run(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tile = min(size.tile or longest, longest) // 2 // align * align
            if tile < max(minimum, align):
                raise type(error)(
                    f"Out of memory, even with tiles of {size.tile or longest} latents. {MEMORY_ADVICE} ({error})"
                ) from error
            logger.warning("Out of memory; trying again with tiles of %d latents.", tile)
        # Outside the except block: the traceback, and with it every tensor of the failed run, is gone by now.
        overlap = size.overlap if size.tile else max(size.overlap, tile // 4)
        size = size._replace(tile=tile, overlap=overlap, parts=1).aligned(align)


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's own error, Python's, and the plain RuntimeError of the CPU and MPS allocators."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    # As MPS, the CPU on Linux and the CPU on Windows say it.
    marks = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)
