"""DFOSD Load LoRA for ComfyUI."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...dfosd_core.attach import weighted
from ...dfosd_core.hosts.comfy.clones import with_unet_lora
from ...dfosd_core.hosts.comfy.layout import unet_layout
from ...dfosd_core.lora.file import DfosdLora
from ...dfosd_core.lora.metadata import check_base
from .errors import with_short_errors
from .inputs import Inputs, settings_inputs
from .lora_files import LORA_HELP, LoraFile, lora_fingerprint, lora_names
from .prompt import CONDITIONING_HELP, with_prompt


class LoraSettings(NamedTuple):
    """DFOSD_LORA: what DFOSD Upscale must know of a LoRA that the MODEL carries already."""

    lora: DfosdLora
    strength: float


class DFOSDLoadLoRA:
    """Put a LoRA on a MODEL; the host keeps the result, and hands it to as many nodes as want it."""

    CATEGORY = "image/upscaling"
    SEARCH_ALIASES = ("super resolution", "one step", "OSEDiff", "PiSA-SR", "HYPIR", "OMGSR")
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL", "CONDITIONING", "INT", "DFOSD_LORA")
    RETURN_NAMES = ("model", "conditioning", "timestep", "lora_settings")
    OUTPUT_TOOLTIPS = (
        "The MODEL with the LoRA's UNet layers on it.",
        "The prompt embedding that the LoRA was trained with, or the connected one.",
        "The timestep at which the LoRA's UNet is called.",
        "For DFOSD Upscale: everything else the file says.",
    )
    DESCRIPTION = "Apply a DFOSD or imported LoRA to a MODEL, for DFOSD Upscale's lora_settings or your own graph."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Inputs]:  # noqa: N802
        """The host asks at each page load; the list of files is read anew."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base the LoRA was trained on."}),
                "lora": (lora_names(), {"tooltip": f"A {LORA_HELP}"}),
                "strength": settings_inputs()["strength"],
            },
            "optional": {"conditioning": ("CONDITIONING", {"tooltip": CONDITIONING_HELP})},
        }

    @classmethod
    def IS_CHANGED(cls, lora: str | None = None, **_: Any) -> str:  # noqa: N802
        """Another file under the same name is another LoRA."""
        return lora_fingerprint(lora)

    @with_short_errors
    def run(
        self, model: Any, lora: str, strength: float, conditioning: Any = None
    ) -> tuple[Any, Any, int, LoraSettings]:
        """Raises BaseModelMismatchError or LoraMismatchError when the LoRA does not fit the MODEL."""
        chosen = with_prompt(LoraFile().read(lora), conditioning)
        wanted = chosen.metadata.base_layout
        check_base(wanted, unet_layout(model, wanted), f"'{lora}'")
        patched = with_unet_lora(model, *weighted(chosen, strength))
        return patched, [[chosen.prompt_embeds, {}]], chosen.metadata.timestep, LoraSettings(chosen, strength)
