"""Cutting a map into overlapping tiles, running a function on each and joining the results without a seam.

Everything is measured in grid units, which are latents in the pipeline: an input or output with more samples
a unit (pixels) says so by a factor, so tiles of pixels and of latents always meet. No method, no host here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .size import TileSize


class Span(NamedTuple):
    """A stretch of one axis."""

    start: int
    length: int


class Tile(NamedTuple):
    """A rectangle of the grid."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, x: Tensor, factor: int = 1) -> Tensor:
        """This tile of (..., H * factor, W * factor): a view."""
        rows = x.narrow(-2, self.top * factor, self.height * factor)
        return rows.narrow(-1, self.left * factor, self.width * factor)


@dataclass(frozen=True)
class TileGrid:
    """Equal tiles covering height x width, starting on multiples of `align`, the last ones shifted inward.

    `size` must be aligned (`TileSize.aligned`). As few tiles as its largest edge allows are used, and then no
    larger than that number needs: a map one pixel larger than a tile does not cost four whole tiles.
    """

    height: int
    width: int
    size: TileSize
    align: int = 1

    @property
    def rows(self) -> list[Span]:
        """The tiles' vertical stretches, from the top."""
        return _spans(self.height, self.size, self.align)

    @property
    def columns(self) -> list[Span]:
        """The tiles' horizontal stretches, from the left."""
        return _spans(self.width, self.size, self.align)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return (Tile(r.start, c.start, r.length, c.length) for r in self.rows for c in self.columns)


def _spans(length: int, size: TileSize, align: int) -> list[Span]:
    tile, overlap = size.tile, size.overlap
    if tile == 0 or tile >= length:
        return [Span(0, length)]
    assert 0 <= overlap < tile
    count = -(-(length - overlap) // (tile - overlap))
    tile = -(-(length + (count - 1) * overlap) // (count * align)) * align
    return [Span(min(i * (tile - overlap), length - tile), tile) for i in range(count)]


def blend_window(overlap: int, device: torch.device | None = None, *, fades: bool = True) -> Tensor:
    """Weight of the later tile across an overlap: (overlap,) float32, 0 at first, 1 at last, smooth between.

    A tile is wrong near its own edge, where zero padding stands for pixels it cannot see. So the third of the
    overlap along either edge belongs to the other tile alone, and only the middle third is cross-faded; or, where not
    `fades`, the half along either edge.
    """
    position = (torch.arange(overlap, dtype=torch.float32, device=device) + 0.5) / max(overlap, 1)
    if not fades:
        return (position > 0.5).float()
    x = ((position - 0.5) * 3.0 + 0.5).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def tiled_apply(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    grid: TileGrid,
    *,
    in_factor: int = 1,
    out_factor: int = 1,
    on_tile: Callable[[Tile, Tensor], None] | None = None,
) -> Tensor:
    """`fn` tile by tile: (B, C, H * in_factor, W * in_factor) -> (B, C', H * out_factor, W * out_factor).

    H, W are the grid's; the result is float32. `on_tile` is called after each tile, with its place in the grid and
    what `fn` made of it; what it or `fn` raises passes through. Where neighbours agree the result is exactly
    theirs, so an identity or pointwise function gives the same bits as without tiles. One tile, one strip of tiles
    and the result are held at a time.
    """

    def run(row: Span, column: Span) -> Tensor:
        tile = Tile(row.start, column.start, row.length, column.length)
        y = fn(tile.crop(x, in_factor)).float()
        if on_tile is not None:
            on_tile(tile, y)
        return y

    def strip(row: Span) -> Tensor:
        return _join((run(row, column) for column in grid.columns), grid.columns, -1, out_factor, grid.size.fades)

    return _join((strip(row) for row in grid.rows), grid.rows, -2, out_factor, grid.size.fades)


def _join(pieces: Iterator[Tensor], spans: list[Span], dim: int, factor: int, fades: bool) -> Tensor:
    """Pieces one after another along `dim`, joined where they overlap. Each is dropped once written."""
    if len(spans) == 1:
        return next(pieces)
    canvas: Tensor | None = None
    written = 0
    for span in spans:
        piece = next(pieces)
        if canvas is None:
            shape = list(piece.shape)
            shape[dim] = (spans[-1].start + spans[-1].length) * factor
            canvas = piece.new_empty(shape)
        written = _join_in(canvas, piece, span.start * factor, written, dim, fades)
        del piece  # or it would be held while the next one is computed
    assert canvas is not None
    return canvas


def _join_in(canvas: Tensor, piece: Tensor, start: int, written: int, dim: int, fades: bool) -> int:
    length, overlap = piece.shape[dim], max(written - start, 0)
    window = blend_window(overlap, piece.device, fades=fades)
    window = window if dim == -1 else window[:, None]
    # lerp and not a weighted sum: a + w (b - a) is exactly a where a == b, whatever w.
    canvas.narrow(dim, start, overlap).lerp_(piece.narrow(dim, 0, overlap), window)
    canvas.narrow(dim, start + overlap, length - overlap).copy_(piece.narrow(dim, overlap, length - overlap))
    return start + length
