"""Where the WebUIs keep DFOSD's LoRAs and bases: `models/DFOSD`, and their own checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modules import paths, sd_models  # pyright: ignore[reportMissingImports]

from ...dfosd_core.errors import BaseModelMismatchError, LoraFormatError

AUTOMATIC = "automatic"
EMBEDDED = "embedded small x4"
"""The LoRA and base that come with DFOSD."""


def folder() -> Path:
    """`models/DFOSD` of this WebUI."""
    return Path(paths.models_path) / "DFOSD"


def make_folder() -> None:
    """So that a user sees where to put a LoRA. A folder that cannot be made is no reason not to start."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return


def lora_names() -> list[str]:
    """Entries of the drop-downs: automatic, the embedded one, the files."""
    return [AUTOMATIC, EMBEDDED, *_loras()]


def base_names() -> list[str]:
    """Entries of the drop-downs: automatic, the bases in DFOSD's folder, the WebUI's checkpoints."""
    return [AUTOMATIC, *_bases(), *(name for name in _checkpoints() if name not in _bases())]


def lora_path(name: str) -> Path:
    """Raises LoraFormatError when it is not there (any more)."""
    found = _loras().get(name)
    if found is None:
        raise LoraFormatError(f"There is no LoRA '{name}' in {folder()}. Put it there, or choose another one.")
    return found


def base_path(name: str) -> Path:
    """Raises BaseModelMismatchError when it is not there (any more)."""
    found = _bases().get(name) or _checkpoints().get(name)
    if found is None:
        raise BaseModelMismatchError(f"There is no checkpoint '{name}'. Put it in {folder()}, or choose another one.")
    return found


def own_loras() -> list[str]:
    """The names of the LoRAs in DFOSD's folder."""
    return list(_loras())


def own_bases() -> list[str]:
    """The names of the bases in DFOSD's folder."""
    return list(_bases())


def context_dim(path: Path) -> int | None:
    """Width of the text condition of a checkpoint file, by its header alone; None where that does not tell."""
    shape = (
        _header(path)
        .get("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", {})
        .get("shape", [])
    )
    return int(shape[1]) if len(shape) == 2 else None


def _found() -> dict[str, Path]:
    try:
        files = sorted(path for path in folder().rglob("*.safetensors") if path.is_file())
    except OSError:
        return {}
    return {path.relative_to(folder()).as_posix(): path for path in files}


def _loras() -> dict[str, Path]:
    return {name: path for name, path in _found().items() if not _is_checkpoint(path)}


def _bases() -> dict[str, Path]:
    return {name: path for name, path in _found().items() if _is_checkpoint(path)}


def _is_checkpoint(path: Path) -> bool:
    return any(key.startswith("model.diffusion_model.") for key in _header(path))


def _checkpoints() -> dict[str, Path]:
    return {info.name: Path(info.filename) for info in sd_models.checkpoints_list.values()}


def _header(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < 100_000_000 else {}
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}
