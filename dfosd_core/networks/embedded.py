"""The model that comes with DFOSD: where its base and its LoRA lie, and what they are called in lists and settings."""

from __future__ import annotations

from pathlib import Path

from ..errors import BaseModelMismatchError
from ..lora.file import DfosdLora, load_lora

EMBEDDED = "embedded"
"""The base in a training configuration."""
EMBEDDED_BASE = "embedded small base"
EMBEDDED_LORA = "embedded small x4"
"""In drop-downs."""
DEFAULT_WEIGHTS = Path(__file__).parents[1] / "weights"
DEFAULT_BASE = "small_base"
DEFAULT_LORA = "dfosd_small_x4.safetensors"


def default_parts(weights: Path = DEFAULT_WEIGHTS) -> tuple[Path, DfosdLora]:
    """The folder of the small base, and its LoRA. Raises BaseModelMismatchError when the installation lacks them."""
    for part in (weights / DEFAULT_BASE, weights / DEFAULT_LORA):
        if not part.exists():
            raise BaseModelMismatchError(
                f"The embedded default is incomplete: there is no '{part}'. "
                "Install DFOSD again, or give --base and --lora."
            )
    return weights / DEFAULT_BASE, load_lora(weights / DEFAULT_LORA)
