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

    def in_latents(self, factor: int) -> TileSize:
        """From pixels to latents, at least one a tile, the overlap not less than asked for."""
        return TileSize(max(self.tile // factor, 1) if self.tile else 0, -(-self.overlap // factor), self.parts)

    def aligned(self, align: int) -> TileSize:
        """Rounded to multiples of `align`, the tile down and the overlap up, but to at most half a tile."""
        tile = max(self.tile // align, 1) * align if self.tile else 0
        overlap = -(-self.overlap // align) * align
        return TileSize(tile, min(overlap, tile // 2 // align * align) if tile else overlap, self.parts)


@dataclass(frozen=True, kw_only=True)
class TileSettings:
    """Tiles for the three stages, in pixels of the output."""

    encode: TileSize
    unet: TileSize
    decode: TileSize
