"""Opening whatever a user gives as a LoRA: a DFOSD LoRA, or a file or folder of another method (`importers`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from ..errors import LoraFormatError
from ..tensor_files import TensorFileError, is_pickle, read_entries, read_header, read_safetensors
from .file import DfosdLora, load_lora, refuse_foreign
from .importers import import_lora, omgsr, refused
from .importers.content import Content, ImportedLora

SUFFIXES = (".safetensors", ".pkl", ".pth")
"""How LoRA files are called in lists; what a file is, its content says."""
MAX_SETTINGS_BYTES = 1_000_000
"""peft writes a few thousand; a longer file is cut off and so unreadable."""


def may_be_lora(path: Path) -> bool:
    """Whether a list of LoRAs shows `path`, as far as names tell."""
    return _is_omgsr(path) if path.is_dir() else path.suffix in SUFFIXES


def open_lora(path: Path | str) -> DfosdLora | ImportedLora:
    """Raises LoraFormatError, one line, for what is missing, damaged, unsafe or no LoRA that DFOSD knows."""
    path = Path(path)
    try:
        if path.is_dir():
            return _known(_folder(path))
        if path.is_file() and is_pickle(path):
            return _known(Content(name=path.name, values=read_entries(path), sha256=_sha256(path)))
        return _safetensors(path)
    except TensorFileError as error:
        raise LoraFormatError(str(error)) from error


def _known(content: Content) -> ImportedLora:
    refused.refuse_known(content.name, refused.names_of(content.values))
    return import_lora(content) or refused.refuse_unknown(content.name, content.values)


def _safetensors(path: Path) -> DfosdLora | ImportedLora:
    """HYPIR's LoRA is a flat table, so it may also lie in a safetensors file."""
    header = read_header(path)
    stated = cast("object", header.get("__metadata__"))
    if not path.is_file() or (isinstance(stated, dict) and "dfosd.format_version" in stated):
        return load_lora(path)
    refused.refuse_known(path.name, refused.names_of_header(header))
    content = Content(name=path.name, values=read_safetensors(path).tensors, sha256=_sha256(path))
    return import_lora(content) or refuse_foreign(path.name, content.values)


def _is_omgsr(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in (omgsr.UNET, omgsr.ENCODER))


def _folder(folder: Path) -> Content:
    if not _is_omgsr(folder):
        refused.refuse_folder(folder.name, {entry.name for entry in folder.iterdir()})
    values: dict[str, Any] = {}
    files: list[Path] = []
    for part in (omgsr.UNET, omgsr.ENCODER):
        weights = folder / part / omgsr.WEIGHTS
        values[f"{part}/{omgsr.CONFIG}"] = _settings(folder, part)
        values[part] = read_safetensors(weights).tensors
        files.append(weights)
    return Content(name=folder.name, values=values, sha256=_sha256(*files))


def _settings(folder: Path, part: str) -> dict[str, Any]:
    """peft's settings of one part of OMGSR-S's folder."""
    config, weights = folder / part / omgsr.CONFIG, folder / part / omgsr.WEIGHTS
    try:
        with config.open("rb") as file:
            text = file.read(MAX_SETTINGS_BYTES)
        settings = cast("object", json.loads(text))
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not weights.is_file():
        raise LoraFormatError(
            f"'{folder.name}' is damaged: expected {omgsr.CONFIG} and {omgsr.WEIGHTS} in {part}, found one missing "
            "or unreadable. Get the folder again."
        )
    return cast("dict[str, Any]", settings)


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
