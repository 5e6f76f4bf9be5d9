"""reForge's loaded checkpoint as a `Host`, through its own memory management. Works inside reForge only."""

from __future__ import annotations

import sys
from typing import Any

from modules import shared  # pyright: ignore[reportMissingImports]

from ...errors import BaseModelMismatchError
from ...lora.metadata import LoraMetadata
from .patcher import PatcherHost, objects_of
from .shared import NO_CHECKPOINT


def detect() -> bool:
    """reForge, or an old Forge: ComfyUI's networks under a name of their own."""
    return "ldm_patched.modules.model_management" in sys.modules


def open_checkpoint(lora: LoraMetadata) -> ReforgeHost:
    """The loaded checkpoint. Raises BaseModelMismatchError where there is none or DFOSD cannot use it."""
    if shared.sd_model is None:
        raise BaseModelMismatchError(NO_CHECKPOINT)
    return ReforgeHost(shared.sd_model)


class ReforgeHost(PatcherHost):
    """A `Host` over a loaded checkpoint with `forge_objects`. Raises BaseModelMismatchError when DFOSD cannot use it.

    Its first_stage_model and diffusion_model have A1111's places too, but only its own management moves them, and
    only there are the user's LoRAs taken out.
    """

    name = "reForge"

    def __init__(self, sd_model: Any) -> None:
        # Other WebUIs have none.
        from ldm_patched.modules import model_management, model_sampling  # pyright: ignore[reportMissingImports]

        objects = objects_of(sd_model)
        model = objects.unet.model
        super().__init__(
            objects,
            model_management,
            is_v=isinstance(model.model_sampling, model_sampling.V_PREDICTION),
            unet_dtype=model.manual_cast_dtype or model.get_dtype(),
            process_in=model.process_latent_in,
            process_out=model.process_latent_out,
        )
