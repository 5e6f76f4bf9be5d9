"""Forge's loaded checkpoint as a `Host`, through its own memory management. Works inside Forge only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import sd_models  # pyright: ignore[reportMissingImports]

from ...errors import BaseModelMismatchError
from ...lora.metadata import LoraMetadata
from ...tensor_files import context_dim
from .patcher import PatcherHost, objects_of
from .shared import NO_CHECKPOINT


def detect() -> bool:
    """Forge, or a fork of it such as Forge Neo: both load a checkpoint when it is first used."""
    return hasattr(sd_models, "forge_model_reload")


def open_checkpoint(lora: LoraMetadata) -> ForgeHost:
    """The chosen checkpoint, loaded now if it was not.

    Raises BaseModelMismatchError where there is none, it cannot be loaded or `lora` does not fit it.
    """
    _refuse_by_header(lora)
    try:
        sd_model, _ = sd_models.forge_model_reload()
    except (ValueError, ModuleNotFoundError) as error:  # there is none; Forge Neo does not know its kind
        raise BaseModelMismatchError(f"The WebUI cannot load its checkpoint: {error} Choose a base.") from error
    return ForgeHost(sd_model)


class ForgeHost(PatcherHost):
    """A `Host` over a loaded `ForgeDiffusionEngine`. Raises BaseModelMismatchError when DFOSD cannot use it."""

    name = "Forge"

    def __init__(self, sd_model: Any) -> None:
        from backend import memory_management  # pyright: ignore[reportMissingImports]  # other WebUIs have none

        objects = objects_of(sd_model)
        model, autoencoder = objects.unet.model, objects.vae.first_stage_model
        super().__init__(
            objects,
            memory_management,
            is_v=model.predictor.prediction_type == "v_prediction",
            unet_dtype=model.computation_dtype,
            process_in=autoencoder.process_in,
            process_out=autoencoder.process_out,
        )


def _refuse_by_header(lora: LoraMetadata) -> None:
    """Before tens of gigabytes are loaded only to be told that they do not fit."""
    info = sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
    if info is None:
        raise BaseModelMismatchError(NO_CHECKPOINT)
    file, wanted = Path(info.filename), lora.base_layout.context_dim
    found = context_dim(file)
    if file.suffix == ".safetensors" and found != wanted:
        raise BaseModelMismatchError(
            f"The LoRA wants a base with context {wanted} ({lora.base_model or 'SD 2.1-base'}), but the "
            f"chosen checkpoint '{info.name}' has {found or 'another layout'}. Put the base in models/DFOSD, or "
            "choose the embedded model."
        )
