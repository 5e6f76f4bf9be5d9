"""ComfyUI's list of our nodes. Ids, inputs and their order are frozen: saved workflows hold them."""

from __future__ import annotations

from .color_fix import DFOSDColorFix
from .load_lora import DFOSDLoadLoRA
from .lora_files import register_folder
from .upscale import DFOSDUpscale

register_folder()

NODE_CLASS_MAPPINGS = {
    "DFOSDUpscale": DFOSDUpscale,
    "DFOSDLoadLoRA": DFOSDLoadLoRA,
    "DFOSDColorFix": DFOSDColorFix,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DFOSDUpscale": "DFOSD Upscale",
    "DFOSDLoadLoRA": "DFOSD Load LoRA",
    "DFOSDColorFix": "DFOSD Color Fix",
}
