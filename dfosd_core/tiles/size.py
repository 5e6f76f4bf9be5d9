"""How large tiles are: plain numbers, so that settings and command lines need no torch for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class TileSize(NamedTuple):
    """How one stage is tiled, along both axes."""

    tile: int
    """Largest edge of a tile. 0: the whole map at once."""
    overlap: int
    """Least that neighbouring tiles share. Outer thirds are thrown away, the middle one is cross-faded."""
    parts: int = 1
    """How many tiles a whole map counts for in the progress, where the host goes through it part by part itself."""
    fades: bool = True
    """False where a network sees no further than half the overlap. Then neighbours agree, and the overlap is cut in the
    middle instead."""

    def in_latents(self, factor: int) -> TileSize:
        """From pixels to latents, at least one a tile, the overlap not less than asked for."""
        tile = max(self.tile // factor, 1) if self.tile else 0
        return self._replace(tile=tile, overlap=-(-self.overlap // factor))

    def aligned(self, align: int) -> TileSize:
        """Rounded to multiples of `align`, the tile down and the overlap up, but to at most half a tile.

        Neighbours that share less than was asked for fade.
        """
        tile = max(self.tile // align, 1) * align if self.tile else 0
        wanted = -(-self.overlap // align) * align
        overlap = min(wanted, tile // 2 // align * align) if tile else wanted
        return self._replace(tile=tile, overlap=overlap, fades=self.fades or overlap < wanted)


@dataclass(frozen=True, kw_only=True)
class TileSettings:
    """Tiles for the three stages, in pixels of the output."""

    encode: TileSize
    unet: TileSize
    decode: TileSize
