"""LoRA files in ComfyUI's model folders: `models/dfosd`, and `models/loras` beside it."""

from __future__ import annotations

import os

import folder_paths  # pyright: ignore[reportMissingImports]

from ...dfosd_core.errors import LoraFormatError
from ...dfosd_core.lora.file import DfosdLora, load_lora

FOLDERS = ("dfosd", "loras")
SUFFIX = ".safetensors"


def register_folder() -> None:
    """Make `models/dfosd` one of the host's model folders, so that extra_model_paths.yaml knows it, too."""
    folder_paths.add_model_folder_path("dfosd", os.path.join(folder_paths.models_dir, "dfosd"))


def lora_names() -> list[str]:
    """The names to choose from, those of `models/dfosd` first; of two of the same name the first is meant."""
    names = [name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    return list(dict.fromkeys(name for name in names if name.endswith(SUFFIX)))


def lora_path(name: str) -> str:
    """Where the file is. Raises LoraFormatError when it is in neither folder."""
    for folder in FOLDERS:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    raise LoraFormatError(
        f"There is no LoRA '{name}' in models/dfosd or models/loras. Put it there, or choose another, and press R."
    )


def lora_fingerprint(name: str | None) -> str:
    """What changes when the file does: for IS_CHANGED, and for `LoraFile`.

    Empty when there is no file, which the run itself will say, and for None: then the name comes over a link.
    """
    try:
        path = lora_path(name or "")
        facts = os.stat(path)
    except (LoraFormatError, OSError):
        return ""
    return f"{path}:{facts.st_mtime_ns}:{facts.st_size}"


class LoraFile:
    """The LoRA that was read last, read anew when its file has changed."""

    def __init__(self) -> None:
        self._fingerprint = ""
        self._lora: DfosdLora | None = None

    def read(self, name: str) -> DfosdLora:
        """Raises LoraFormatError for a file that is missing, damaged or no DFOSD LoRA."""
        fingerprint = lora_fingerprint(name)
        if self._lora is None or fingerprint != self._fingerprint:
            self._lora = None  # not both in memory
            self._lora = load_lora(lora_path(name))
            self._fingerprint = fingerprint
        return self._lora
