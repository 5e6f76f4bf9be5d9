"""LoRA files in ComfyUI's model folders: `models/dfosd`, and `models/loras` beside it."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths  # pyright: ignore[reportMissingImports]

from ...dfosd_core.errors import LoraFormatError
from ...dfosd_core.files import stamp_of
from ...dfosd_core.lora.file import DfosdLora, ImportedLora
from ...dfosd_core.lora.importers import omgsr
from ...dfosd_core.lora.importers.peft_settings import ADAPTER_WEIGHTS
from ...dfosd_core.lora.open import may_be_lora, open_lora
from .decoder_files import is_decoder_name

FOLDERS = ("dfosd", "loras")
LORA_HELP = (
    "LoRA from models/dfosd or models/loras: DFOSD's, or the unchanged file of OSEDiff, PiSA-SR or HYPIR, or OMGSR-S's "
    "folder."
)
_MARK = (omgsr.UNET, ADAPTER_WEIGHTS)
"""The host lists files only. Where it finds this one, the folder around it may be OMGSR-S's LoRA."""


def register_folder() -> None:
    """Make `models/dfosd` one of the host's model folders, so that extra_model_paths.yaml knows it, too."""
    folder_paths.add_model_folder_path("dfosd", os.path.join(folder_paths.models_dir, "dfosd"))


def lora_names() -> list[str]:
    """The names to choose from, those of `models/dfosd` first; of two of the same name the first is meant."""
    return list(dict.fromkeys(name for folder in FOLDERS for name in _names_in(folder)))


def _names_in(folder: str) -> list[str]:
    files = [Path(name) for name in folder_paths.get_filename_list(folder)]
    around = [file.parents[1] for file in files if file.parts[-2:] == _MARK and len(file.parts) > len(_MARK)]
    folders = [name for name in around if (path := _path(folder, str(name))) and may_be_lora(path)]
    alone = [file for file in files if may_be_lora(file) and not any(name in file.parents for name in folders)]
    if folder == FOLDERS[0]:  # light decoders may lie there, too
        alone = [file for file in alone if not is_decoder_name(folder, str(file))]
    return [str(name) for name in sorted([*alone, *folders])]


def _path(folder: str, name: str) -> Path | None:
    """Of a file, or of a folder with OMGSR-S's LoRA, in one of the host's model folders."""
    # First, because the host takes a link to a folder for a broken one and says so in its log.
    if marked := folder_paths.get_full_path(folder, os.path.join(name, *_MARK)):
        return Path(marked).parents[1]
    path = folder_paths.get_full_path(folder, name)
    return Path(path) if path else None


def lora_path(name: str) -> Path:
    """Where the file or folder is. Raises LoraFormatError when it is in neither of the host's folders."""
    for folder in FOLDERS:
        path = _path(folder, name)
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
        return str(stamp_of(lora_path(name or "")))
    except (LoraFormatError, OSError):
        return ""


class LoraFile:
    """The LoRA that was read last, read anew when its file has changed."""

    def __init__(self) -> None:
        self._fingerprint = ""
        self._lora: DfosdLora | ImportedLora | None = None

    def read(self, name: str) -> DfosdLora | ImportedLora:
        """Raises LoraFormatError for a file that is missing, damaged or no LoRA that DFOSD knows."""
        fingerprint = lora_fingerprint(name)
        if self._lora is None or fingerprint != self._fingerprint:
            self._lora = None  # not both in memory
            self._lora = open_lora(lora_path(name))
            self._fingerprint = fingerprint
        return self._lora
