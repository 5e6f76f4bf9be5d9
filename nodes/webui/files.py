"""Where the WebUIs keep LoRAs and bases for DFOSD: `models/DFOSD`, and their own checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from modules import paths, sd_models  # pyright: ignore[reportMissingImports]

from ...dfosd_core.errors import BaseModelMismatchError, LoraFormatError
from ...dfosd_core.lora.open import may_be_lora
from ...dfosd_core.networks.embedded import EMBEDDED_LORA
from ...dfosd_core.networks.light_decoder import is_decoder
from ...dfosd_core.settings import FULL_DECODER
from ...dfosd_core.tensor_files import kind_of_file, read_header

AUTOMATIC = "automatic"


class ModelFile(NamedTuple):
    """A LoRA or a base that can be chosen."""

    name: str
    """In the drop-downs."""
    path: Path


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
    return [AUTOMATIC, EMBEDDED_LORA, *(file.name for file in own_loras())]


def base_names() -> list[str]:
    """Entries of the drop-downs: automatic, the bases in DFOSD's folder, the WebUI's checkpoints."""
    return [AUTOMATIC, *dict.fromkeys(file.name for file in [*own_bases(), *_checkpoints()])]


def decoder_names() -> list[str]:
    """Entries of the drop-downs: the base's own, the light ones in DFOSD's folder and the WebUI's own."""
    return [FULL_DECODER, *dict.fromkeys(file.name for file in own_decoders())]


def find_lora(name: str) -> ModelFile:
    """Raises LoraFormatError when it is not there (any more)."""
    found = next((file for file in own_loras() if file.name == name), None)
    if found is None:
        raise LoraFormatError(f"There is no LoRA '{name}' in models/DFOSD. Put it there, or choose another one.")
    return found


def find_base(name: str) -> ModelFile:
    """Raises BaseModelMismatchError when it is not there (any more)."""
    found = next((file for file in [*own_bases(), *_checkpoints()] if file.name == name), None)
    if found is None:
        raise BaseModelMismatchError(f"There is no checkpoint '{name}'. Put it in models/DFOSD, or choose another one.")
    return found


def find_decoder(name: str) -> ModelFile:
    """Raises BaseModelMismatchError when it is not there (any more)."""
    found = next((file for file in own_decoders() if file.name == name), None)
    if found is None:
        raise BaseModelMismatchError(
            f"There is no decoder '{name}' in models/DFOSD. Put it there, or choose another one."
        )
    return found


def own_loras() -> list[ModelFile]:
    """The LoRAs in DFOSD's folder: DFOSD's own, and files and folders of other methods."""
    return [file for file in _found() if may_be_lora(file.path) and not _is_other(file.path)]


def own_bases() -> list[ModelFile]:
    """The bases in DFOSD's folder."""
    return [file for file in _found() if file.path.is_file() and _is_base(file.path)]


def own_decoders() -> list[ModelFile]:
    """The light decoders in DFOSD's folder, and in the one where the WebUI keeps those of its previews."""
    try:
        previews = sorted((Path(paths.models_path) / "VAE-approx").iterdir())
    except OSError:
        previews = []  # it has fetched none yet
    files = [*_found(), *(ModelFile(path.name, path) for path in previews)]
    return [file for file in files if is_decoder(file.path)]


def _is_base(path: Path) -> bool:
    return kind_of_file(path) == "base model"


def _is_other(path: Path) -> bool:
    """A base, a decoder, or by its header something else. What is damaged stays a LoRA: a run says what is wrong."""
    return _is_base(path) or is_decoder(path) or (bool(read_header(path)) and kind_of_file(path) == "other")


def _found() -> list[ModelFile]:
    try:
        return sorted(ModelFile(path.relative_to(folder()).as_posix(), path) for path in _walk(folder()))
    except OSError:
        return []


def _walk(place: Path) -> Iterator[Path]:
    """What may be a base or a LoRA, in subfolders too. A LoRA or a base that is a folder is one thing."""
    for path in place.iterdir():
        if path.is_file() or may_be_lora(path) or _is_base(path):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _checkpoints() -> list[ModelFile]:
    return [ModelFile(info.name, Path(info.filename)) for info in sd_models.checkpoints_list.values()]
