"""AUTOMATIC1111's loaded checkpoint as a `Host`. Imports the WebUI's `modules`, so it loads inside a WebUI only.

No weight is written: a LoRA acts through hooks, and what the user has put on the checkpoint steps aside meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from modules import devices, sd_models, sd_unet, shared  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ...errors import BaseModelMismatchError
from ...lora.file import DfosdLora
from ...lora.hooks import hooked
from ...lora.metadata import BaseLayout, check_base
from ...schedule import eps_from_v
from ..sd_host import LayoutHost
from .ldm_layers import unet_facts, unet_layers, vae_layers

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


class A1111Host(LayoutHost):
    """A `Host` over `shared.sd_model`. Raises BaseModelMismatchError when DFOSD cannot use that checkpoint."""

    def __init__(self, sd_model: Any) -> None:
        self.layout = read_layout(sd_model)
        self._model = sd_model
        self._vae = sd_model.first_stage_model

    @property
    def size_multiple_px(self) -> int:
        """64: at other sizes the WebUI fits its UNet's skips by repeating pixels."""
        return 64

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> model-space latent (B, C, H/f, W/f), the posterior's mean."""
        with devices.without_autocast():
            posterior = self._vae.encode(x.to(devices.device, self._vae_dtype()))
        return (posterior.mode() * self._model.scale_factor).to(x.device, torch.float32)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Model-space latent (B, C, h, w) -> (B, 3, h*f, w*f), about [-1, 1], not clamped.

        Where half precision overflows, the VAE goes on in float32 until the `lora` block ends.
        """
        x = self._decode(z)
        if not bool(torch.isfinite(x).all()) and self._vae_dtype() != torch.float32:
            self._vae.to(torch.float32)
            x = self._decode(z)
        return x

    @torch.no_grad()
    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        """One UNet call on (B, C, h, w) with (1, N, context_dim), by the host's own `apply_model`."""
        device, dtype = devices.device, devices.dtype_unet
        context = prompt_embeds.to(device, dtype).expand(z.shape[0], -1, -1)
        step = torch.full((z.shape[0],), t, device=device, dtype=torch.int64)
        with devices.autocast():
            # Not the UNet itself: --medvram moves it to the card in a hook on its wrapper.
            output = self._model.apply_model(z.to(device, dtype), step, {"c_crossattn": [context]})
        output = output.to(z.device, torch.float32)
        return eps_from_v(output, z.float(), t) if self.layout.prediction_type == "v_prediction" else output

    @contextmanager
    def lora(self, lora: DfosdLora, strength: float) -> Iterator[None]:
        """Let `lora` act inside the `with` block, alone: the user's own networks are back afterwards.

        Raises BaseModelMismatchError for a base the LoRA was not trained on, LoraMismatchError when not all of
        its layers fit.
        """
        check_base(lora.metadata.base_layout, self.layout)
        layers = unet_layers(self._model.model.diffusion_model) | vae_layers(self._vae)
        dtype = self._vae_dtype()
        try:
            with hooked(layers, lora, strength), without_users_networks(self._model):
                yield
        finally:
            if self._vae_dtype() != dtype:
                self._vae.to(dtype)  # exact: each number came from this format
            devices.torch_gc()

    def _decode(self, z: Tensor) -> Tensor:
        with devices.without_autocast():
            x = self._model.decode_first_stage(z.to(devices.device, self._vae_dtype()))
        return x.to(z.device, torch.float32)

    def _vae_dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self._vae.parameters()).dtype
        return dtype


def read_layout(sd_model: Any) -> BaseLayout:
    """What kind of base it is. Raises BaseModelMismatchError for anything but SD 1.x and 2.x."""
    wrapper, vae = getattr(sd_model, "model", None), getattr(sd_model, "first_stage_model", None)
    prediction = PREDICTIONS.get(getattr(sd_model, "parameterization", ""))
    if vae is None or prediction is None or hasattr(sd_model, "conditioner"):
        raise BaseModelMismatchError(
            "The loaded checkpoint is no Stable Diffusion 1.x or 2.x. Choose SD 2.1-base, or the embedded model."
        )
    return BaseLayout(
        **unet_facts(getattr(wrapper, "diffusion_model", None)),
        prediction_type=prediction,  # pyright: ignore[reportArgumentType]
        latent_channels=int(vae.post_quant_conv.weight.shape[0]),
        latent_factor=2 ** (len(vae.decoder.up) - 1),
    )


@contextmanager
def without_users_networks(sd_model: Any) -> Iterator[None]:
    """The checkpoint alone: no LoRAs, hypernetworks, merged tokens or exchanged UNet of the user's."""
    with ExitStack() as stack:
        extension = sys.modules.get("networks")  # the built-in extension for LoRAs; its layers look here at each call
        lists = [getattr(extension, "loaded_networks", None), shared.loaded_hypernetworks]
        for networks in (found for found in lists if found):
            stack.callback(networks.extend, list(networks))
            networks.clear()
        if sd_unet.current_unet is not None:
            stack.callback(setattr, sd_unet, "current_unet", sd_unet.current_unet)
            sd_unet.current_unet = None
            if not getattr(sd_model, "lowvram", False):
                # The other one has sent it to main memory; under --medvram a hook fetches it.
                unet = sd_model.model.diffusion_model
                stack.callback(unet.to, next(unet.parameters()).device)
                unet.to(devices.device)
        ratio = getattr(sd_model, "applied_token_merged_ratio", 0)
        if ratio:
            stack.callback(sd_models.apply_token_merging, sd_model, ratio)
            sd_models.apply_token_merging(sd_model, 0)
        yield
