"""Where the WebUIs keep DFOSD's LoRAs and bases: `models/DFOSD`, and their own checkpoints."""

from __future__ import annotations

from pathlib import Path

from modules import paths, sd_models  # pyright: ignore[reportMissingImports]

from ...dfosd_core.errors import BaseModelMismatchError, LoraFormatError
from ...dfosd_core.networks.embedded import EMBEDDED_LORA
from ...dfosd_core.tensor_files import kind_of_file

AUTOMATIC = "automatic"


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
    return [AUTOMATIC, EMBEDDED_LORA, *_loras()]


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


def _found() -> dict[str, Path]:
    try:
        files = sorted(path for path in folder().rglob("*.safetensors") if path.is_file())
    except OSError:
        return {}
    return {path.relative_to(folder()).as_posix(): path for path in files}


def _loras() -> dict[str, Path]:
    return {name: path for name, path in _found().items() if kind_of_file(path) != "base model"}


def _bases() -> dict[str, Path]:
    return {name: path for name, path in _found().items() if kind_of_file(path) == "base model"}


def _checkpoints() -> dict[str, Path]:
    return {info.name: Path(info.filename) for info in sd_models.checkpoints_list.values()}
