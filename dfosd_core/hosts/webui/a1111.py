"""AUTOMATIC1111's loaded checkpoint as a `Host`. Imports the WebUI's `modules`, so it loads inside a WebUI only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from modules import devices, sd_models, sd_unet, shared  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from ...errors import BaseModelMismatchError
from ...lora.metadata import BaseLayout, LoraMetadata
from .ldm_layers import NOT_SD, unet_facts
from .shared import NO_CHECKPOINT, NOT_SHARED, CheckpointHost

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def detect() -> bool:
    """Every WebUI that is none of the others offers A1111's modules."""
    return True


def open_checkpoint(lora: LoraMetadata) -> A1111Host:
    """The loaded checkpoint. Raises BaseModelMismatchError where there is none or it is not A1111's kind."""
    sd_model = shared.sd_model
    if sd_model is None:
        raise BaseModelMismatchError(NO_CHECKPOINT)
    # A fork may move its networks by management of its own, whatever attributes of A1111's they have.
    if hasattr(sd_model, "forge_objects") or not hasattr(sd_model, "first_stage_model"):
        raise BaseModelMismatchError(NOT_SHARED)
    return A1111Host(sd_model)


class A1111Host(CheckpointHost):
    """A `Host` over `shared.sd_model`. Raises BaseModelMismatchError when DFOSD cannot use that checkpoint."""

    name = "AUTOMATIC1111"

    def __init__(self, sd_model: Any) -> None:
        super().__init__(read_layout(sd_model), sd_model.model.diffusion_model, sd_model.first_stage_model)
        self._model = sd_model
        self._vae = sd_model.first_stage_model

    @property
    def size_multiple_px(self) -> int:
        """64: at other sizes the WebUI fits its UNet's skips by repeating pixels."""
        return 64

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        with devices.without_autocast():
            posterior = self._vae.encode(x.to(devices.device, self._vae_dtype))
        return (posterior.mode() * self._model.scale_factor).to(x.device, torch.float32)

    def _decode(self, z: Tensor) -> Tensor:
        with devices.without_autocast():
            x = self._model.decode_first_stage(z.to(devices.device, self._vae_dtype))
        return x.to(z.device, torch.float32)

    def _predict(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        device, dtype = devices.device, devices.dtype_unet
        context = prompt_embeds.to(device, dtype).expand(z.shape[0], -1, -1)
        step = torch.full((z.shape[0],), t, device=device, dtype=torch.int64)
        with devices.autocast():
            # Not the UNet itself: --medvram moves it to the card in a hook on its wrapper.
            return self._model.apply_model(z.to(device, dtype), step, {"c_crossattn": [context]})

    @torch.no_grad()
    def _text_encoder(self) -> nn.Module:
        encoder: nn.Module = self._model.cond_stage_model
        # A LoRA of the last prompt stays in the weights until a layer is called without it, which is what this does.
        restore = getattr(sys.modules.get("networks"), "network_apply_weights", None)
        if restore is not None:
            for layer in encoder.modules():
                restore(layer)
        return encoder

    @property
    def _vae_dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self._vae.parameters()).dtype
        return dtype

    def _set_vae_dtype(self, dtype: torch.dtype) -> None:
        self._vae.to(dtype)

    def _free_memory(self) -> None:
        devices.torch_gc()

    @contextmanager
    def _without_users_networks(self) -> Iterator[None]:
        """No LoRAs, hypernetworks, merged tokens or exchanged UNet of the user's."""
        sd_model = self._model
        with ExitStack() as stack:
            extension = sys.modules.get("networks")  # the built-in extension for LoRAs; its layers look here each call
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


def read_layout(sd_model: Any) -> BaseLayout:
    """What kind of base it is. Raises BaseModelMismatchError for anything but SD 1.x and 2.x."""
    wrapper, vae = getattr(sd_model, "model", None), getattr(sd_model, "first_stage_model", None)
    prediction = PREDICTIONS.get(getattr(sd_model, "parameterization", ""))
    if vae is None or prediction is None or hasattr(sd_model, "conditioner"):
        raise BaseModelMismatchError(NOT_SD)
    return BaseLayout(
        **unet_facts(getattr(wrapper, "diffusion_model", None)),
        prediction_type=prediction,  # pyright: ignore[reportArgumentType]
        latent_channels=int(vae.post_quant_conv.weight.shape[0]),
        latent_factor=2 ** (len(vae.decoder.up) - 1),
    )
