"""A loaded checkpoint that its program hands out as `ModelPatcher`s: what Forge and reForge share.

It is used as it is without the user's LoRAs, through the program's own memory management.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BaseModelMismatchError
from ...lora.metadata import BaseLayout
from .ldm_layers import NOT_SD, unet_facts
from .shared import CheckpointHost


class PatcherHost(CheckpointHost):
    """A `Host` over `forge_objects_original`. Raises BaseModelMismatchError for other UNets than Stable Diffusion's."""

    def __init__(
        self,
        objects: Any,
        memory: Any,
        *,
        is_v: bool,
        unet_dtype: torch.dtype,
        process_in: Callable[[Tensor], Tensor],
        process_out: Callable[[Tensor], Tensor],
    ) -> None:
        """What each program's own networks call differently.

        memory: its module that moves networks to the card and back. unet_dtype: what the UNet computes in.
        process_in, process_out: from the VAE's scale to the UNet's, and back.
        """
        layout = BaseLayout(
            **unet_facts(objects.unet.model.diffusion_model),
            prediction_type="v_prediction" if is_v else "epsilon",
            latent_channels=int(objects.vae.latent_channels),
            latent_factor=int(objects.vae.downscale_ratio),
        )
        super().__init__(layout, objects.unet.model.diffusion_model, objects.vae.first_stage_model)
        self._clip = objects.clip
        # The user's LoRAs are on other clones; the weights come from this one when it is loaded next.
        self._unet, self._vae = objects.unet.clone(), objects.vae.clone()
        self._memory, self._unet_dtype = memory, unet_dtype
        self._process_in, self._process_out = process_in, process_out

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        vae = self._vae
        # Not by `VAE.encode`: out of memory, it would tile by itself; our tiles become smaller instead.
        self._memory.load_models_gpu([vae.patcher], vae.memory_used_encode(x.shape, vae.vae_dtype))
        network = vae.first_stage_model
        # Nor by the network's `encode`, which draws a sample unless told not to, in each program another way.
        mean, _ = network.quant_conv(network.encoder(x.to(vae.device, vae.vae_dtype))).chunk(2, dim=1)
        return self._process_in(mean.float()).to(x.device)

    @torch.inference_mode()
    def _decode(self, z: Tensor) -> Tensor:
        vae = self._vae
        self._memory.load_models_gpu([vae.patcher], vae.memory_used_decode(z.shape, vae.vae_dtype))
        latent = self._process_out(z.float()).to(vae.device, vae.vae_dtype)
        return vae.first_stage_model.decode(latent).to(z.device, torch.float32)

    @torch.inference_mode()
    def _predict(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        unet = self._unet
        self._memory.load_models_gpu([unet], unet.memory_required(list(z.shape)))
        device, dtype = unet.load_device, self._unet_dtype
        return unet.model.diffusion_model(
            z.to(device, dtype),
            torch.full((z.shape[0],), float(t), device=device),
            context=prompt_embeds.to(device, dtype).expand(z.shape[0], -1, -1),
            control=None,
            transformer_options={},
        )

    def _text_encoder(self) -> nn.Module:
        # Loading is what takes the user's LoRAs out of the weights.
        self._memory.load_models_gpu([self._clip.patcher])
        return self._clip.cond_stage_model

    @property
    def _vae_dtype(self) -> torch.dtype:
        return self._vae.vae_dtype

    @torch.inference_mode()
    def _set_vae_dtype(self, dtype: torch.dtype) -> None:
        # The network is the user's, the note of its format is this clone's.
        self._vae.first_stage_model.to(dtype)
        self._vae.vae_dtype = dtype

    def _free_memory(self) -> None:
        self._memory.soft_empty_cache()


def objects_of(sd_model: Any) -> Any:
    """Its `forge_objects_original`. Raises BaseModelMismatchError for anything but SD 1.x and 2.x."""
    objects = getattr(sd_model, "forge_objects_original", None)
    if objects is None or not (getattr(sd_model, "is_sd1", False) or getattr(sd_model, "is_sd2", False)):
        raise BaseModelMismatchError(NOT_SD)
    return objects
