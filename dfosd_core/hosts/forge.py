"""Forge's loaded checkpoint as a `Host`, through its own memory management. Loads inside Forge only.

No weight is written: a LoRA acts through hooks, on the checkpoint as it is without the user's LoRAs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from backend import memory_management  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..errors import BaseModelMismatchError
from ..lora.file import DfosdLora
from ..lora.hooks import hooked
from ..lora.metadata import BASE_PREDICTIONS, BaseLayout, check_base
from ..schedule import eps_from_v
from .layout_host import LayoutHost
from .ldm_layers import unet_facts, unet_layers, vae_layers


class ForgeHost(LayoutHost):
    """A `Host` over a loaded `ForgeDiffusionEngine`. Raises BaseModelMismatchError when DFOSD cannot use it."""

    def __init__(self, sd_model: Any) -> None:
        self.layout = read_layout(sd_model)
        # The user's LoRAs are on other clones; the weights come from this one when it is loaded next.
        self._unet = sd_model.forge_objects_original.unet.clone()
        self._vae = sd_model.forge_objects_original.vae.clone()

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> model-space latent (B, C, H/f, W/f), the posterior's mean."""
        vae = self._vae
        # Not by `VAE.encode`: out of memory, it would tile by itself; our tiles become smaller instead.
        memory_management.load_models_gpu([vae.patcher], vae.memory_used_encode(x.shape, vae.vae_dtype))
        z = vae.first_stage_model.encode(x.to(vae.device, vae.vae_dtype), _mode)
        return vae.first_stage_model.process_in(z.float()).to(x.device)

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """Model-space latent (B, C, h, w) -> (B, 3, h*f, w*f), about [-1, 1], not clamped."""
        vae = self._vae
        memory_management.load_models_gpu([vae.patcher], vae.memory_used_decode(z.shape, vae.vae_dtype))
        latent = vae.first_stage_model.process_out(z.float())
        return vae.first_stage_model.decode(latent.to(vae.device, vae.vae_dtype)).to(z.device, torch.float32)

    @torch.inference_mode()
    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        """One UNet call on (B, C, h, w) with (1, N, context_dim)."""
        unet = self._unet
        memory_management.load_models_gpu([unet], unet.memory_required(list(z.shape)))
        device, dtype = unet.load_device, unet.model.computation_dtype
        output = unet.model.diffusion_model(
            z.to(device, dtype),
            torch.full((z.shape[0],), float(t), device=device),
            context=prompt_embeds.to(device, dtype).expand(z.shape[0], -1, -1),
            control=None,
            transformer_options={},
        ).to(z.device, torch.float32)
        return eps_from_v(output, z.float(), t) if self.layout.prediction_type == "v_prediction" else output

    @contextmanager
    def lora(self, lora: DfosdLora, strength: float) -> Iterator[None]:
        """Let `lora` act inside the `with` block.

        Raises BaseModelMismatchError for a base the LoRA was not trained on, LoraMismatchError when not all of
        its layers fit.
        """
        check_base(lora.metadata.base_layout, self.layout)
        layers = unet_layers(self._unet.model.diffusion_model) | vae_layers(self._vae.first_stage_model)
        try:
            with hooked(layers, lora, strength):
                yield
        finally:
            memory_management.soft_empty_cache()


def read_layout(sd_model: Any) -> BaseLayout:
    """What kind of base it is. Raises BaseModelMismatchError for anything but SD 1.x and 2.x."""
    objects = getattr(sd_model, "forge_objects_original", None)
    if objects is None or not (getattr(sd_model, "is_sd1", False) or getattr(sd_model, "is_sd2", False)):
        raise BaseModelMismatchError(
            "The loaded checkpoint is no Stable Diffusion 1.x or 2.x. Choose SD 2.1-base, or the embedded model."
        )
    prediction = objects.unet.model.predictor.prediction_type
    return BaseLayout(
        **unet_facts(objects.unet.model.diffusion_model),
        prediction_type=prediction if prediction in BASE_PREDICTIONS else "epsilon",
        latent_channels=int(objects.vae.latent_channels),
        latent_factor=int(objects.vae.downscale_ratio),
    )


def _mode(posterior: Any) -> Tensor:
    return posterior.mode()
