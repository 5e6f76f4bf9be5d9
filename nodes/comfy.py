"""ComfyUI's list of our nodes. Ids, inputs and their order are frozen: saved workflows hold them."""

from __future__ import annotations

from .comfy_color_fix import DFOSDColorFix
from .comfy_files import register_folder
from .comfy_load_lora import DFOSDLoadLoRA
from .comfy_upscale import DFOSDUpscale

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
