"""The LoRA file: its names, its metadata, reading and writing it, merging it into a network."""

from .file import DfosdLora, LoraPair, load_lora, save_lora
from .merge import merged
from .metadata import BaseLayout, LoraMetadata, check_base

__all__ = [
    "BaseLayout",
    "DfosdLora",
    "LoraMetadata",
    "LoraPair",
    "check_base",
    "load_lora",
    "merged",
    "save_lora",
]
