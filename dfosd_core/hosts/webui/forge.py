"""Forge's loaded checkpoint as a `Host`, through its own memory management. Loads inside Forge only."""

from __future__ import annotations

from typing import Any

import torch
from backend import memory_management  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .patcher import PatcherHost, objects_of, read_layout


class ForgeHost(PatcherHost):
    """A `Host` over a loaded `ForgeDiffusionEngine`. Raises BaseModelMismatchError when DFOSD cannot use it."""

    def __init__(self, sd_model: Any) -> None:
        objects = objects_of(sd_model)
        is_v = objects.unet.model.predictor.prediction_type == "v_prediction"
        super().__init__(read_layout(objects, is_v=is_v), objects, memory_management)

    @property
    def _unet_dtype(self) -> torch.dtype:
        return self._unet.model.computation_dtype

    def _process_in(self, z: Tensor) -> Tensor:
        return self._vae.first_stage_model.process_in(z)

    def _process_out(self, z: Tensor) -> Tensor:
        return self._vae.first_stage_model.process_out(z)
