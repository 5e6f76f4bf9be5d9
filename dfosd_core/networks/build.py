"""The plain networks on the meta device: shapes and no weights."""

from __future__ import annotations

import torch

from .config import unet_plan, vae_plan
from .sd_configs import Config
from .unet import PlainUnet
from .vae import PlainVae


def build_unet(config: Config, name: str) -> PlainUnet:
    """The UNet of a diffusers configuration. Raises BaseModelMismatchError for `name` if we have no such network."""
    plan = unet_plan(config, name)
    with torch.device("meta"):
        return PlainUnet(plan)


def build_vae(config: Config, name: str) -> PlainVae:
    """The autoencoder of a diffusers configuration; raises as `build_unet` does."""
    plan = vae_plan(config, name)
    with torch.device("meta"):
        return PlainVae(plan)
