"""Opening whatever a user gives as a LoRA: a DFOSD LoRA, or a file or folder of another method (`importers`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from ..errors import LoraFormatError
from ..tensor_files import TensorFileError, is_pickle, read_entries, read_header, read_tensors
from .file import DfosdLora, load_lora
from .importers import import_lora, omgsr, refused
from .importers.content import Content, ImportedLora

SUFFIXES = (".safetensors", ".pkl", ".pth")
"""How LoRA files are called in lists; what a file is, its content says."""


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
    lora = import_lora(content)
    if lora is None:
        raise LoraFormatError(f"'{content.name}' {refused.reason(content)}")
    return lora


def _safetensors(path: Path) -> DfosdLora | ImportedLora:
    """HYPIR's LoRA is a flat table, so it may also lie in a safetensors file."""
    stated = cast("object", read_header(path).get("__metadata__"))
    if path.suffix != ".safetensors" or (isinstance(stated, dict) and "dfosd.format_version" in stated):
        return load_lora(path)
    try:
        tensors = read_tensors(path).tensors
    except (TensorFileError, OSError):
        return load_lora(path)  # it says what is wrong
    return import_lora(Content(name=path.name, values=tensors, sha256=_sha256(path))) or load_lora(path)


def _is_omgsr(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in (omgsr.UNET, omgsr.ENCODER))


def _folder(folder: Path) -> Content:
    if not _is_omgsr(folder):
        raise LoraFormatError(
            f"'{folder.name}' is no LoRA: expected a file, or OMGSR-S's folder with {omgsr.UNET} and {omgsr.ENCODER}, "
            "found another folder. Give a LoRA."
        )
    values: dict[str, Any] = {}
    files: list[Path] = []
    for part in (omgsr.UNET, omgsr.ENCODER):
        config, weights = folder / part / omgsr.CONFIG, folder / part / omgsr.WEIGHTS
        try:
            settings = cast("object", json.loads(config.read_text("utf-8")))
        except (OSError, ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict) or not weights.is_file():
            raise LoraFormatError(
                f"'{folder.name}' is damaged: expected {omgsr.CONFIG} and {omgsr.WEIGHTS} in {part}, found one missing "
                "or unreadable. Get the folder again."
            )
        values[f"{part}/{omgsr.CONFIG}"] = settings
        values[part] = read_tensors(weights).tensors
        files.append(weights)
    return Content(name=folder.name, values=values, sha256=_sha256(*files))


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
