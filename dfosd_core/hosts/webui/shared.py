"""What all hosts of the A1111 family share: LoRAs by hooks, eps from v, the empty prompt, float32 for a weak VAE.

The checkpoint is the user's. No weight is written: a LoRA acts through forward hooks, and whatever the user has put
on the checkpoint is out of effect meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ...errors import LoraMismatchError
from ...lora.file import DfosdLora
from ...lora.hooks import hooked
from ...lora.metadata import BaseLayout, check_base
from ..layout_host import LayoutHost
from .ldm_layers import unet_layers, vae_layers
from .text_encoder import empty_prompt_of

NO_CHECKPOINT = "The WebUI has no checkpoint. Choose SD 2.1-base, or the embedded model."
NOT_SHARED = "The checkpoint of this WebUI cannot be shared. Choose a base, or the embedded model."


class CheckpointHost(LayoutHost, ABC):
    """A `Host` over a loaded checkpoint whose networks have LDM names."""

    name: str

    def __init__(self, layout: BaseLayout, unet: nn.Module, vae: nn.Module) -> None:
        self.layout = layout
        self._networks = unet, vae
        self._has_lora = False

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """As `Host.encode`."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor:
        """As `decode`, in the VAE's present number format."""

    @abstractmethod
    def _predict(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        """The UNet's output, eps or v, for (B, C, h, w) under (1, N, context_dim), wherever it computes."""

    @property
    @abstractmethod
    def _vae_dtype(self) -> torch.dtype:
        """The number format of the VAE's weights."""

    @abstractmethod
    def _set_vae_dtype(self, dtype: torch.dtype) -> None:
        """Convert the VAE's weights."""

    @abstractmethod
    def _free_memory(self) -> None:
        """Give what is cached back to the graphics card."""

    @abstractmethod
    def _text_encoder(self) -> nn.Module:
        """The checkpoint's, without the user's networks in its weights."""

    def _without_users_networks(self) -> AbstractContextManager[None]:
        """The checkpoint alone inside the `with` block, where the networks have more on them."""
        return nullcontext()

    def empty_prompt(self) -> Tensor:
        """(1, 77, context_dim) float32: what the checkpoint's own text encoder makes of the text "".

        Raises BaseModelMismatchError where it is not that of Stable Diffusion 2.x.
        """
        with self._without_users_networks():
            return empty_prompt_of(self._text_encoder(), "the loaded checkpoint")

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Where half precision overflows, the VAE goes on in float32 until the `lora` block ends."""
        x = self._decode(z)
        if not bool(torch.isfinite(x).all()) and self._vae_dtype != torch.float32:
            self._set_vae_dtype(torch.float32)
            x = self._decode(z)
        return x

    @torch.no_grad()
    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        return self._eps_of(self._predict(z, t, prompt_embeds).to(z.device, torch.float32), z, t)

    @contextmanager
    def lora(self, lora: DfosdLora, strength: float) -> Iterator[None]:
        """By hooks, and alone: the user's own networks are back afterwards."""
        check_base(lora.metadata.base_layout, self.layout)
        if self._has_lora:
            raise LoraMismatchError("A LoRA is attached already. Leave its `with` block before attaching another.")
        unet, vae = self._networks
        layers = unet_layers(unet) | vae_layers(vae)
        dtype, self._has_lora = self._vae_dtype, True
        try:
            with hooked(layers, lora, strength), self._without_users_networks():
                yield
        finally:
            self._has_lora = False
            if self._vae_dtype != dtype:
                self._set_vae_dtype(dtype)  # exact: each number came from this format
            self._free_memory()
