"""How far a call has come: over all its images, stages and tiles, and inside a tile where the host says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .grid import Tile, TileGrid
from .inside import Inside, listening


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedTile:
    """A stage's output for one tile, or some finished rows of it, for previews.

    Good during the callback only: keep no reference to it.
    """

    image: int
    """Which image of the batch, from 0."""
    top: int
    left: int
    """Where it begins in the stage's whole output, in samples of that output."""
    size: tuple[int, int]
    """(height, width) of the whole output."""
    values: Tensor
    """(1, C, h, w) float32: pixels of about [0, 1] after "decode", latents after the others."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a call has come. A host shows one bar over all images, stages and tiles of it."""

    phase: str
    """"encode", "unet" or "decode"."""
    done: int
    """Tiles finished in the whole call. A map that the host goes through layer by layer counts for many."""
    total: int
    """Tiles in the whole call. Grows, and `done` steps back, if a stage starts again with smaller tiles."""
    tile: FinishedTile | None = None
    """What has just been finished; None in the middle of a tile."""


ProgressCallback = Callable[[Progress], None]
Function = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class Ticker:
    """Reports one stage of one image, tile by tile."""

    report: ProgressCallback
    phase: str
    image: int
    size: tuple[int, int]
    """(height, width) of the stage's whole output."""
    factor: int
    """Samples of the output a latent."""
    then: Function
    """What is done to the host's output before anybody sees it."""
    done: int
    total: int
    parts: int
    """How many tiles each tile counts for."""
    _tile: Tile = field(init=False)

    def listening(self, fn: Function, grid: TileGrid) -> Function:
        """`fn`, to be called for the grid's tiles in their order: what it says of itself is reported too."""
        tiles = iter(grid)

        def run(x: Tensor) -> Tensor:
            self._tile = next(tiles)
            with listening(self._inside):
                return fn(x)

        return run

    def finished(self, tile: Tile, y: Tensor) -> None:
        """`y`: its output."""
        self.done += self.parts
        self._report(self.done, self._finished(tile, 0, y))

    def _inside(self, inside: Inside) -> None:
        rows = None if inside.rows is None else self._finished(self._tile, inside.top, self.then(inside.rows))
        self._report(self.done + int(inside.share * self.parts), rows)

    def _report(self, done: int, finished: FinishedTile | None) -> None:
        self.report(Progress(phase=self.phase, done=done, total=self.total, tile=finished))

    def _finished(self, tile: Tile, row: int, values: Tensor) -> FinishedTile:
        top, left = tile.top * self.factor + row, tile.left * self.factor
        return FinishedTile(image=self.image, top=top, left=left, size=self.size, values=values)
