"""A `Host` over diffusers' own networks: the oracle that ours are compared with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

from dfosd_core.hosts.own import OwnHost
from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.merge import merged
from dfosd_core.lora.metadata import BaseLayout, check_base
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX
from dfosd_core.networks.config import UnetConfig, VaeConfig
from dfosd_core.networks.embedded import default_parts
from dfosd_core.tiles.size import TileSettings
from dfosd_core.training.base import config_of, own_networks, read_training_base


class _Unet(torch.nn.Module):
    """diffusers' UNet, called as ours."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.config = UnetConfig.from_diffusers(config_of(unet), "the oracle")
        self.conv_in, self.theirs = unet.conv_in, unet

    def forward(self, z: Tensor, t: int, context: Tensor) -> Tensor:
        return self.theirs(z, t, encoder_hidden_states=context.expand(len(z), -1, -1)).sample


class _Vae(torch.nn.Module):
    """diffusers' autoencoder, called as ours."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.config = VaeConfig.from_diffusers(config_of(vae), "the oracle")
        self.theirs = vae

    def encode(self, x: Tensor) -> Tensor:
        return self.theirs.encode(x).latent_dist.mode()

    def decode(self, z: Tensor) -> Tensor:
        return self.theirs.decode(z).sample


class DiffusersHost:
    """The twin of `OwnHost`: the same weights give the same image."""

    def __init__(self, unet: Any, vae: Any, layout: BaseLayout) -> None:
        self.unet, self.vae, self.layout = unet, vae, layout

    @property
    def _host(self) -> OwnHost:
        return OwnHost(cast("Any", _Unet(self.unet)), cast("Any", _Vae(self.vae)), self.layout)

    @property
    def name(self) -> str:
        return self._host.name

    @property
    def size_multiple_px(self) -> int:
        return self._host.size_multiple_px

    def encode(self, x: Tensor) -> Tensor:
        return self._host.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self._host.decode(z)

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        return self._host.predict_eps(z, t, prompt_embeds)

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        return self._host.auto_tiles(height_px, width_px)

    def lora(self, lora: DfosdLora, strength: float) -> AbstractContextManager[None]:
        """Merged by the names of diffusers' layers."""
        check_base(lora.metadata.base_layout, self.layout)
        return merged({UNET_PREFIX: self.unet, VAE_PREFIX: self.vae}, lora, strength)


def own_twin(host: DiffusersHost) -> OwnHost:
    """The same configuration and weights (not copies of them) in our networks."""
    return OwnHost(*own_networks(host.unet, host.vae), host.layout)


def load_default_with_diffusers(dtype: torch.dtype) -> tuple[DiffusersHost, DfosdLora]:
    """The embedded base and LoRA."""
    path, lora = default_parts()
    unet, vae, layout = read_training_base(path)
    return DiffusersHost(cast("Any", unet).to(dtype), cast("Any", vae).to(dtype), layout), lora
