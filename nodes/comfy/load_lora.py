"""DFOSD Load LoRA for ComfyUI."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...dfosd_core.attach import weighted
from ...dfosd_core.hosts.comfy.clones import with_unet_lora
from ...dfosd_core.hosts.comfy.layout import unet_layout
from ...dfosd_core.lora.file import DfosdLora
from ...dfosd_core.lora.metadata import check_base
from .inputs import Inputs, settings_inputs
from .lora_files import LoraFile, lora_fingerprint, lora_names


class LoraSettings(NamedTuple):
    """DFOSD_LORA: what DFOSD Upscale must know of a LoRA that the MODEL carries already."""

    lora: DfosdLora
    strength: float


class DFOSDLoadLoRA:
    """Put a DFOSD LoRA on a MODEL; the host keeps the result, and hands it to as many nodes as want it."""

    CATEGORY = "image/upscaling"
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL", "CONDITIONING", "INT", "DFOSD_LORA")
    RETURN_NAMES = ("model", "conditioning", "timestep", "lora_settings")
    OUTPUT_TOOLTIPS = (
        "The MODEL with the LoRA's UNet layers on it.",
        "The prompt embedding that the LoRA was trained with.",
        "The timestep at which the LoRA's UNet is called.",
        "For DFOSD Upscale: everything else the file says.",
    )
    DESCRIPTION = "Apply a DFOSD LoRA to a MODEL, for DFOSD Upscale's lora_settings or a graph of your own."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Inputs]:  # noqa: N802
        """The host asks at each page load; the list of files is read anew."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base the LoRA was trained on."}),
                "lora": (lora_names(), {"tooltip": "A DFOSD LoRA from models/dfosd or models/loras."}),
                "strength": settings_inputs()["strength"],
            }
        }

    @classmethod
    def IS_CHANGED(cls, lora: str | None = None, **_: Any) -> str:  # noqa: N802
        """Another file under the same name is another LoRA."""
        return lora_fingerprint(lora)

    def run(self, model: Any, lora: str, strength: float) -> tuple[Any, Any, int, LoraSettings]:
        """Raises BaseModelMismatchError or LoraMismatchError when the LoRA does not fit the MODEL."""
        chosen = LoraFile().read(lora)
        wanted = chosen.metadata.base_layout
        check_base(wanted, unet_layout(model, wanted), f"'{lora}'")
        patched = with_unet_lora(model, *weighted(chosen, strength))
        return patched, [[chosen.prompt_embeds, {}]], chosen.metadata.timestep, LoraSettings(chosen, strength)
