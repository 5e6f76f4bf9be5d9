"""Opening whatever a user gives as a LoRA: a DFOSD LoRA, or a file or folder of another method (`importers`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import LoraFormatError
from ..tensor_files import TensorFileError, is_pickle, kind_of, read_entries, read_header, read_tensors
from .file import DfosdLora, ImportedLora, ordinary_lora, read_lora
from .importers import import_lora, omgsr, plain, refused
from .importers.content import Content

SUFFIXES = (".safetensors", ".pkl", ".pth")
"""How LoRA files are called in lists; what a file is, its content says."""


def may_be_lora(path: Path) -> bool:
    """Whether a list of LoRAs shows `path`, as far as names tell."""
    return _is_omgsr(path) if path.is_dir() else path.suffix in SUFFIXES


def open_lora(path: Path | str) -> DfosdLora | ImportedLora:
    """Raises LoraFormatError, one line, for what is missing, damaged, unsafe or no LoRA that DFOSD knows."""
    path = Path(path)
    content = read_content(path)
    if content is None:
        return read_lora(path)
    lora = import_lora(content)
    if lora is not None:
        return lora
    if kind_of(content.values) == "LoRA":
        raise LoraFormatError(ordinary_lora(content.name))
    if path.is_file() and not is_pickle(path):
        return read_lora(path)  # it says what else the file is
    raise LoraFormatError(f"'{content.name}' {refused.reason(content)}")


def read_content(path: Path) -> Content | None:
    """What a file or folder of another program holds, none of it run. Raises LoraFormatError, one line.

    None: it is for `read_lora`, being DFOSD's own, missing, or damaged.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file() and is_pickle(path):
            return Content(name=path.name, values=read_entries(path), sha256=_sha256(path))
    except TensorFileError as error:
        raise LoraFormatError(str(error)) from error
    stated = cast("object", read_header(path).get("__metadata__"))
    if path.suffix != ".safetensors" or (isinstance(stated, dict) and "dfosd.format_version" in stated):
        return None
    try:
        tensors, header = read_tensors(path)
    except (TensorFileError, OSError):
        return None
    settings = _json(path.with_name(plain.ADAPTER_CONFIG)) if path.name == plain.ADAPTER_WEIGHTS else None
    more = {} if settings is None else {plain.ADAPTER_CONFIG: settings}
    return Content(name=path.name, values={**tensors, **more}, sha256=_sha256(path), header=header)


def _is_omgsr(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in (omgsr.UNET, omgsr.ENCODER))


def _folder(folder: Path) -> Content:
    if (folder / plain.ADAPTER_WEIGHTS).is_file():
        tensors, config = _peft_folder(folder, folder.name)
        return Content(
            name=folder.name,
            values={**tensors, plain.ADAPTER_CONFIG: config},
            sha256=_sha256(folder / plain.ADAPTER_WEIGHTS),
        )
    if not _is_omgsr(folder):
        raise LoraFormatError(
            f"'{folder.name}' is no LoRA: expected a file, or OMGSR-S's folder with {omgsr.UNET} and {omgsr.ENCODER}, "
            "found another folder. Give a LoRA."
        )
    values: dict[str, Any] = {}
    for part in (omgsr.UNET, omgsr.ENCODER):
        values[part], values[f"{part}/{omgsr.CONFIG}"] = _peft_folder(folder / part, folder.name)
    files = [folder / part / omgsr.WEIGHTS for part in (omgsr.UNET, omgsr.ENCODER)]
    return Content(name=folder.name, values=values, sha256=_sha256(*files))


def _peft_folder(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's weights and settings; an error names the user's folder `name`."""
    settings, weights = _json(folder / plain.ADAPTER_CONFIG), folder / plain.ADAPTER_WEIGHTS
    if not isinstance(settings, dict) or not weights.is_file():
        raise LoraFormatError(
            f"'{name}' is damaged: expected {plain.ADAPTER_CONFIG} and {plain.ADAPTER_WEIGHTS} in {folder.name}, found "
            "one missing or unreadable. Get the folder again."
        )
    try:
        return read_tensors(weights).tensors, cast("dict[str, Any]", settings)
    except TensorFileError as error:
        raise LoraFormatError(str(error)) from error


def _json(path: Path) -> object:
    """None for what is missing or unreadable."""
    try:
        return cast("object", json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
