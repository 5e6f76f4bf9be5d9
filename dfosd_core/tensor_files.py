"""Files of tensors: reading them without running code, and telling from a header alone what kind of file one is.

A safetensors file is eight bytes of header length (little-endian), a JSON header of shapes and text, and the data.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import safetensors.torch
import torch
from torch import Tensor

from .errors import DfosdError, one_line
from .torch_files.machine import read_torch_file

MAX_HEADER_BYTES = 100_000_000
"""As safetensors itself has it: SDXL's header is below one megabyte."""
LDM_UNET, LDM_VAE = "model.diffusion_model.", "first_stage_model."
LDM_TEXT = "cond_stage_model.model."
"""How the names of a UNet's, a VAE's and (SD 2.x) a text encoder's tensors begin in a single file (LDM names)."""
# kohya's `lora_unet_...`, PEFT's `....lora_A.weight`, diffusers' `....lora.down.weight`, `....to_q_lora.down.weight`
_LORA_KEY = re.compile(r"(^|\.)lora_|[._]lora\.(down|up)\.")
_COMPARED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The number formats whose values torch can compare; eight-bit ones are none."""
_CONTEXT_KEY = f"{LDM_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"

SAFE_TORCH = (2, 10)
"""Before it torch's own reader of pickles could be got round (CVE-2025-32434 below 2.6, CVE-2026-24747 below 2.10)."""
# AUTOMATIC1111 puts a reader of its own in the place of `torch.load`, which knows no `weights_only` and gives None for
# what it does not like.
_torch_load = torch.serialization.load

ReadT = TypeVar("ReadT")
Kind = Literal["base model", "LoRA", "other"]


class TensorFileError(DfosdError):
    """No tensors could be read. Callers raise their own kind of error from it."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """What the library that reads the format found wrong, in a few words."""


class TensorFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    """The `str -> str` entry of a safetensors header; empty for a pickle."""


def read_tensors(path: Path) -> TensorFile:
    """The tensors of a `.safetensors` file or of a pickle, mapped into memory; no code of a pickle is run.

    A pickle may hold them in a dictionary under `state_dict`. Raises TensorFileError, one line, for all else.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    entries = read_entries(path, mapped=True) if _is_zip(path) else _read_old_pickle(path)
    state: object = entries.get("state_dict", entries)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in cast("Mapping[Any, Any]", state)):
        found = type(state).__name__ if not isinstance(state, Mapping) else "keys that are no text"
        raise _damaged(path, f"expected a dictionary of tensors with names, found {found}")
    named = cast("Mapping[str, Any]", state)
    return TensorFile({key: value for key, value in named.items() if isinstance(value, Tensor)}, {})


def _read_old_pickle(path: Path) -> dict[str, Any]:
    """Of torch before 1.6, which wrote no archive; torch itself reads those, where it is safe."""
    installed = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if is_pickle(path) and installed < SAFE_TORCH:
        raise TensorFileError(
            f"'{path.name}' is a pickle as torch before 1.6 wrote it, which torch {torch.__version__} cannot read "
            f"safely. Install torch {'.'.join(map(str, SAFE_TORCH))} or newer, or give the .safetensors file of the "
            "same model.",
            "an old pickle",
        )
    if not is_pickle(path):
        raise _damaged(path, "expected tensors, found: neither safetensors nor a file of torch.save")
    loaded = safely(path, lambda: _torch_load(path, map_location="cpu", weights_only=True))
    if not isinstance(loaded, dict):
        raise _damaged(path, f"expected a dictionary, found a {type(loaded).__name__}")
    _check_claims(path, loaded)
    return cast("dict[str, Any]", loaded)


def read_safetensors(path: Path) -> TensorFile:
    """As `read_tensors`, whatever the file is called."""
    load = cast("Callable[[Path], dict[str, Tensor]]", safetensors.torch.load_file)
    return safely(path, lambda: TensorFile(load(path), _metadata(read_header(path))))


def read_entries(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """A torch.save file's dictionary with all that stands in it: tensors, lists, numbers, text.

    mapped: read bytes when they are used, for a look or a copy; while the tensors live, the file must stay as it is. No
    code of it is run, and nothing larger than the file is made. Raises TensorFileError, one line, for all else.
    """
    try:
        loaded = read_torch_file(path, mapped=mapped)
        if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in cast("dict[Any, Any]", loaded)):
            raise ValueError(f"expected a dictionary with names, found a {type(loaded).__name__}")
    except (ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error
    _check_claims(path, loaded)
    return cast("dict[str, Any]", loaded)


def _check_claims(path: Path, entries: Mapping[Any, Any]) -> None:
    """A few values, shared or repeated by a stride of 0, can claim to be tensors of any size."""
    nested = [cast("Mapping[Any, Any]", value).values() for value in entries.values() if isinstance(value, Mapping)]
    tensors = [value for group in (entries.values(), *nested) for value in group if isinstance(value, Tensor)]
    size = path.stat().st_size
    if (claimed := sum(tensor.numel() * tensor.element_size() for tensor in tensors)) > size:
        raise _damaged(path, f"expected no more tensors than its {size} bytes hold, found {claimed} bytes of them")


def _damaged(path: Path, reason: str) -> TensorFileError:
    reason = one_line(reason)
    return TensorFileError(f"'{path.name}' is damaged or no model file: {reason}. Get it again.", reason)


def is_pickle(path: Path) -> bool:
    """Whether the first bytes are those of a zip archive or a bare pickle; a safetensors header begins with `{`."""
    with path.open("rb") as file:
        start = file.read(9)
    # The length of a safetensors header may look like either.
    return start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80")


def safely(path: Path, read: Callable[[], ReadT]) -> ReadT:
    """What `read` gives. Raises TensorFileError, one line, for whatever it raises."""
    try:
        return read()
    except pickle.UnpicklingError as error:
        raise TensorFileError(
            f"'{path.name}' holds more than tensors, which could run code when opened, so it was not. "
            "Give the .safetensors file of the same model instead, or convert it with a tool you trust.",
            type(error).__name__,
        ) from error
    except Exception as error:  # torch's unpickler meets random bytes with any of a dozen exceptions
        reason = one_line(str(error).split("\n")[0]) or type(error).__name__
        raise TensorFileError(
            f"'{path.name}' is damaged or no model file: expected tensors, found: {reason}. Get it again.", reason
        ) from error


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header: name -> {dtype, shape, data_offsets}; empty for any other file."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= MAX_HEADER_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}  # what reads the tensors says what is wrong
    return cast("dict[str, Any]", header) if isinstance(header, dict) else {}


def kind_of(keys: Iterable[str]) -> Kind:
    """What tensors of these names are; a LoRA may have DFOSD's metadata or not."""
    names = list(keys)
    if any(_LORA_KEY.search(name) for name in names):
        return "LoRA"
    return "base model" if any(name.startswith((LDM_UNET, LDM_VAE)) for name in names) else "other"


def kind_of_file(path: Path) -> Kind:
    """What a file or folder is, by its names alone. A `.ckpt` counts as a base model, a folder with its parts too."""
    if path.is_dir():
        return "base model" if (path / "unet").is_dir() and (path / "vae").is_dir() else "other"
    if path.suffix == ".ckpt":
        return "base model"
    return kind_of(read_header(path)) if path.suffix == ".safetensors" else "other"


def context_dim(path: Path) -> int | None:
    """Width of the text condition of a single-file checkpoint, by its header; None where that does not tell."""
    if path.suffix != ".safetensors":
        return None
    entry: Any = read_header(path).get(_CONTEXT_KEY)
    shape: Any = entry.get("shape") if isinstance(entry, dict) else None
    return shape[1] if isinstance(shape, list) and len(shape) == 2 and type(shape[1]) is int else None


def is_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite. Makes no second tensor of that size, as torch.isfinite does."""
    if value.dtype not in _COMPARED:
        value = value.float()
    return not value.numel() or all(math.isfinite(float(edge)) for edge in value.aminmax())


def _metadata(header: Mapping[str, Any]) -> dict[str, str]:
    """What of it is text: nothing else may stand there, and safetensors itself lets it pass."""
    stated: object = header.get("__metadata__")
    entries = cast("dict[str, object]", stated) if isinstance(stated, dict) else {}
    return {key: value for key, value in entries.items() if isinstance(value, str)}


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return True  # who reads it says what is wrong
