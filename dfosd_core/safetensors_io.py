"""safetensors files, read into memory and written, tensor by tensor: neither takes more than the tensors themselves.

`tensor_files.py` says how such a file is built, and maps one into memory where it is used for a short time only. What
stays in memory is read here: while a file is mapped, some systems let nobody replace it, and on the others its values
change with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import Tensor

from .files import write_whole
from .tensor_files import TensorFile, read_header, safely

if TYPE_CHECKING:
    from hashlib import _Hash  # pyright: ignore[reportPrivateUsage]  # its public name is no type before Python 3.13

FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""torch's number formats -> what the files call them."""
_DTYPES = {name: dtype for dtype, name in FORMATS.items()}


def load_safetensors(path: Path, digest: _Hash | None = None) -> TensorFile:
    """A file's tensors in memory of their own, and its metadata.

    digest: gets the data's bytes, in the file's order. Raises TensorFileError, one line, for all else.
    """
    return safely(path, lambda: _load(path, digest))


def _load(path: Path, digest: _Hash | None) -> TensorFile:
    with safetensors.safe_open(path, framework="pt"):
        pass  # refuses a header that does not describe the whole file, each byte once
    header = read_header(path)
    metadata = header.pop("__metadata__", None) or {}
    tensors: dict[str, Tensor] = {}
    with path.open("rb") as file:
        file.seek(-sum(end - begin for begin, end in (entry["data_offsets"] for entry in header.values())), 2)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
            data = _bytes(tensor)
            if file.readinto(data) != data.size:
                raise ValueError(f"the file ended in {name}")
            if digest:
                digest.update(data)
            tensors[name] = tensor
    return TensorFile(tensors, metadata)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    value_of: Callable[[str], Tensor] | None = None,
) -> None:
    """A file with `tensors` in their order, whole or not at all.

    value_of: gives what is written under a name, in the format and shape of the tensor there; None: that itself.
    Raises KeyError for a format that is none of `FORMATS`, and OSError.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": FORMATS[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with write_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in tensors.items():
            file.write(tensor_bytes(value if value_of is None else value_of(name)))


def tensor_bytes(value: Tensor) -> Any:
    """A tensor's bytes as a file holds them, copied only where it lies elsewhere or in another order."""
    return _bytes(value.detach().cpu().contiguous())


def _bytes(value: Tensor) -> Any:
    return value.reshape(-1).view(torch.uint8).numpy()
