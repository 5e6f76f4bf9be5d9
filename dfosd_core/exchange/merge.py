"""A LoRA merged into a base's files for good: a folder from a folder, a single file from a single file.

Tensors keep their names, order and number formats; those that the LoRA does not change keep their bytes. A changed one
is computed in float32 and rounded once. Files are mapped into memory and written tensor by tensor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attach import weighted
from ..errors import BaseModelMismatchError
from ..files import folder_whole, write_text
from ..lora.changes import LoraChanges, LoraPair
from ..lora.file import DfosdLora
from ..lora.merge import Place, changed, changes_of, check_fit
from ..lora.metadata import check_base
from ..safetensors_io import FORMATS, write_safetensors
from .base_files import BaseFiles, WeightFile

MERGED_FILE = "dfosd_merged.json"
MERGED_KEY = "dfosd.merged"
"""What says of a base that a LoRA is in it: a file in a folder, an entry in each weight file's header."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb")
_CHANGED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Changes = dict[str, list[LoraPair | Tensor]]


def merge(base: BaseFiles, lora: LoraChanges, strength: float, out: Path) -> None:
    """Write `base` with `lora` in it as `out`, which is not there yet: whole or not at all.

    strength: as the user's setting of that name.

    Raises BaseModelMismatchError or LoraMismatchError, before anything is written, where they do not go together, and
    OSError as the file system does.
    """
    check_base(lora.metadata.base_layout, base.layout)
    check_fit(lora, base.shapes())
    facts = merged_facts(lora, strength)
    lora, strength = weighted(lora, strength)
    sources: dict[Place, list[LoraPair | Tensor]] = {}
    for place, source in changes_of(lora) if strength != 0 else ():
        sources.setdefault(place, []).append(source)
    by_file = [
        (file, {file.names[place]: changes for place, changes in sources.items() if place in file.names})
        for file in base.files
    ]
    for file, changes in by_file:
        _refuse_formats(file, changes)
    if not base.path.is_dir():
        _write(out, *by_file[0], strength, facts)
        return
    with folder_whole(out) as folder:
        _copy_the_rest(base.path, folder, {file.path for file in base.files})
        for file, changes in by_file:
            name = file.path.relative_to(base.path).with_suffix(".safetensors")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _write(folder / name, file, changes, strength, facts)
        write_text(folder / MERGED_FILE, json.dumps(facts, indent=2) + "\n")


def merged_facts(lora: LoraChanges, strength: float) -> dict[str, Any]:
    """What is needed to use the result, and where it comes from."""
    about = lora.metadata
    facts = {
        "lora": about.source or "DFOSD",
        "lora_sha256": about.source_sha256,
        "license": about.license,
        "strength": strength,
        "timestep": about.timestep,
        "prediction": about.rule,
        "prompt": "the LoRA's own embedding" if isinstance(lora, DfosdLora) else "",
    }
    return {key: value for key, value in facts.items() if value or key == "prompt" or value == 0}


def _refuse_formats(file: WeightFile, changes: Changes) -> None:
    tensors = file.content.tensors
    other = [name for name in changes if tensors[name].dtype not in _CHANGED]
    other += [name for name, value in tensors.items() if value.dtype not in FORMATS]
    if other:
        raise BaseModelMismatchError(
            f"'{file.path.name}': expected weights in float32, float16 or bfloat16, found {tensors[other[0]].dtype} in "
            f"{other[0]}. Give a base that is not quantized."
        )


def _copy_the_rest(base: Path, out: Path, merged: set[Path]) -> None:
    """All but weights of the networks: what was merged, and other copies of the same weights, which are not."""
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        is_weights = path.suffix in _WEIGHT_SUFFIXES and (len(name.parts) == 1 or name.parts[0] in ("unet", "vae"))
        if path.is_file() and path not in merged and not is_weights and ".git" not in name.parts:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)


def _write(out: Path, file: WeightFile, changes: Changes, strength: float, facts: Mapping[str, Any]) -> None:
    tensors = file.content.tensors
    metadata = {"format": "pt", **file.content.metadata, MERGED_KEY: json.dumps(facts)}
    write_safetensors(out, tensors, metadata, lambda name: _merged(tensors[name], changes.get(name, []), strength))


def _merged(weight: Tensor, sources: list[LoraPair | Tensor], strength: float) -> Tensor:
    if not sources:
        return weight
    value = weight.float()
    for source in sources:
        value = changed(value, source, strength)
    return value.to(weight.dtype)
