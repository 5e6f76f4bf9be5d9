"""Opening whatever a user gives as a LoRA: a DFOSD LoRA, or a file or folder of another method (`importers`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import LoraFormatError
from ..files import reason_of, sha256_of
from ..safetensors_io import load_safetensors
from ..tensor_files import TensorFileError, is_pickle, kind_of, read_entries, read_header
from .file import DfosdLora, ImportedLora, ordinary_lora, read_lora
from .importers import import_lora, omgsr, refused
from .importers.content import Content
from .importers.peft_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS

SUFFIXES = (".safetensors", ".pkl", ".pth")
"""How LoRA files are called in lists; what a file is, its content says."""
MAX_SETTINGS_BYTES = 1_000_000
"""PEFT writes a few thousand; a longer file is cut off and so unreadable."""


def may_be_lora(path: Path) -> bool:
    """Whether a list of LoRAs shows `path`, as far as names tell."""
    return _is_omgsr(path) if path.is_dir() else path.suffix in SUFFIXES


def open_lora(path: Path | str) -> DfosdLora | ImportedLora:
    """Raises LoraFormatError, one line, for what is missing, damaged, unsafe or no LoRA that DFOSD knows."""
    path = Path(path)
    header = read_header(path) if path.is_file() else {}
    if not _is_own(header):  # by its header, so that a large file is refused unread
        refused.refuse_known(path.name, refused.names_of_header(header))
    content = read_content(path)
    if content is None:
        return read_lora(path)
    refused.refuse_known(content.name, refused.names_of(content.values))
    lora = import_lora(content)
    if lora is not None:
        return lora
    if kind_of(content.values) == "LoRA":
        raise LoraFormatError(ordinary_lora(content.name))
    return refused.refuse_unknown(content.name, content.values)


def read_content(path: Path) -> Content | None:
    """What a file or folder of another program holds, none of it run. Raises LoraFormatError, one line.

    None: it is for `read_lora`, being DFOSD's own or missing.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file() or _is_own(read_header(path)):
            return None
        if is_pickle(path):
            return Content(name=path.name, values=read_entries(path), sha256=sha256_of(path))
        tensors, header = load_safetensors(path)
    except TensorFileError as error:
        raise LoraFormatError(str(error)) from error
    except OSError as error:
        raise LoraFormatError(f"'{path.name}' cannot be read: {reason_of(error)}.") from error
    settings = _json(path.with_name(ADAPTER_CONFIG)) if path.name == ADAPTER_WEIGHTS else None
    more = {} if settings is None else {ADAPTER_CONFIG: settings}
    return Content(name=path.name, values={**tensors, **more}, sha256=sha256_of(path), header=header)


def _is_own(header: Mapping[str, Any]) -> bool:
    stated = cast("object", header.get("__metadata__"))
    return isinstance(stated, dict) and "dfosd.format_version" in stated


def _is_omgsr(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in (omgsr.UNET, omgsr.ENCODER))


def _folder(folder: Path) -> Content:
    if (folder / ADAPTER_WEIGHTS).is_file():
        tensors, config = _peft_folder(folder, folder.name)
        return Content(
            name=folder.name,
            values={**tensors, ADAPTER_CONFIG: config},
            sha256=sha256_of(folder / ADAPTER_WEIGHTS),
        )
    if not _is_omgsr(folder):
        refused.refuse_folder(folder.name, {entry.name for entry in folder.iterdir()})
    values: dict[str, Any] = {}
    for part in (omgsr.UNET, omgsr.ENCODER):
        values[part], values[f"{part}/{ADAPTER_CONFIG}"] = _peft_folder(folder / part, folder.name)
    files = [folder / part / ADAPTER_WEIGHTS for part in (omgsr.UNET, omgsr.ENCODER)]
    return Content(name=folder.name, values=values, sha256=sha256_of(*files))


def _peft_folder(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's weights and settings; an error names the user's folder `name`. Raises TensorFileError too."""
    settings, weights = _json(folder / ADAPTER_CONFIG), folder / ADAPTER_WEIGHTS
    if not isinstance(settings, dict) or not weights.is_file():
        raise LoraFormatError(
            f"'{name}' is damaged: expected {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} in {folder.name}, found "
            "one missing or unreadable. Get the folder again."
        )
    return load_safetensors(weights).tensors, cast("dict[str, Any]", settings)


def _json(path: Path) -> object:
    """None for what is missing or unreadable."""
    try:
        with path.open("rb") as file:
            return cast("object", json.loads(file.read(MAX_SETTINGS_BYTES)))
    except (OSError, ValueError, RecursionError):
        return None
