"""What a `Host` knows from its base's layout alone; where a host knows better, it says so itself."""

from __future__ import annotations

from torch import Tensor

from ..lora.metadata import BaseLayout
from ..schedule import eps_from_v
from ..tiles.size import TileSettings, TileSize


class LayoutHost:
    """The part of a `Host` that needs no weights, for a base of Stable Diffusion's kind."""

    layout: BaseLayout

    @property
    def size_multiple_px(self) -> int:
        """f: the UNet fits its skips to any latent size, the autoencoder would crop what is no multiple."""
        return self.layout.latent_factor

    def _eps_of(self, output: Tensor, z: Tensor, t: int) -> Tensor:
        """eps from what the UNet predicts for `z`, in float32."""
        return eps_from_v(output, z.float(), t) if self.layout.prediction_type == "v_prediction" else output

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        """Below 1.5K the whole UNet call costs less than tiles and has no seams; the VAE's memory is the larger.

        See `tiles/run.py` for too little memory.
        """
        unet = TileSize(0, 0) if height_px * width_px <= 1536 * 1536 else TileSize(768, 192)
        return TileSettings(encode=TileSize(1024, 128), unet=unet, decode=TileSize(768, 128))
