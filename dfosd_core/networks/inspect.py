"""What kind of file this is, told from its header alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file's names are a whole model's; only the header is read."""
    try:
        with path.open("rb") as file:
            header = cast("dict[str, Any]", json.loads(file.read(int.from_bytes(file.read(8), "little"))))
    except (OSError, ValueError, OverflowError, MemoryError):
        return False  # the LoRA reader says what is wrong
    return any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in header)
