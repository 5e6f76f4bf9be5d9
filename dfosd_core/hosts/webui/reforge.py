"""reForge's loaded checkpoint as a `Host`, through its own memory management. Loads inside reForge only."""

from __future__ import annotations

from typing import Any

import torch
from ldm_patched.modules import model_management, model_sampling  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .patcher import PatcherHost, objects_of, read_layout


class ReforgeHost(PatcherHost):
    """A `Host` over a loaded checkpoint with `forge_objects`. Raises BaseModelMismatchError when DFOSD cannot use it.

    Its first_stage_model and diffusion_model have A1111's places too, but only its own management moves them, and
    only there are the user's LoRAs taken out.
    """

    def __init__(self, sd_model: Any) -> None:
        objects = objects_of(sd_model)
        is_v = isinstance(objects.unet.model.model_sampling, model_sampling.V_PREDICTION)
        super().__init__(read_layout(objects, is_v=is_v), objects, model_management)

    @property
    def _unet_dtype(self) -> torch.dtype:
        model = self._unet.model
        return model.manual_cast_dtype or model.get_dtype()

    def _process_in(self, z: Tensor) -> Tensor:
        return self._unet.model.process_latent_in(z)

    def _process_out(self, z: Tensor) -> Tensor:
        return self._unet.model.process_latent_out(z)
