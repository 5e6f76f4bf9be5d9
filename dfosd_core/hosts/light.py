"""Any host with a light decoder instead of its VAE's own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import BaseModelMismatchError, LoraMismatchError
from ..host import Host, HostAround
from ..lora.file import DfosdLora
from ..lora.names import VAE_PREFIX
from ..networks.light_decoder import LATENT_CHANNELS, LATENT_FACTOR, LightDecoder
from ..tiles.size import TileSettings


class LightHost(HostAround):
    """`host`, but for `decode`, which runs `decoder` wherever its weights lie.

    Raises BaseModelMismatchError where the host's latents are not Stable Diffusion's.
    """

    def __init__(self, host: Host, decoder: LightDecoder) -> None:
        layout = host.layout
        if (layout.latent_channels, layout.latent_factor) != (LATENT_CHANNELS, LATENT_FACTOR):
            raise BaseModelMismatchError(
                f"Expected a base whose latents have {LATENT_CHANNELS} channels at 1/{LATENT_FACTOR} size for the "
                f"decoder, found {layout.latent_channels} at 1/{layout.latent_factor}. Use the full decoder with it."
            )
        super().__init__(host)
        self._decoder = decoder

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        return self._decoder(z).to(z.device, torch.float32)

    def lora(self, lora: DfosdLora, strength: float) -> AbstractContextManager[None]:
        """Raises LoraMismatchError for a LoRA that was trained with changes of the decoder that is not used."""
        parts = tuple(f"{VAE_PREFIX}_{part}" for part in ("decoder", "post_quant_conv"))
        if any(layer.startswith(parts) for layer in (*lora.pairs, *lora.set_weights, *lora.set_biases)):
            raise LoraMismatchError(
                f"The LoRA changes the VAE's decoder, in whose place {self._decoder.name} would run. "
                "Use the full decoder with it."
            )
        return super().lora(lora, strength)

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        return replace(super().auto_tiles(height_px, width_px), decode=self._decoder.tile)
