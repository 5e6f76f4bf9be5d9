"""LoRA files whose header or tensors are something else: one line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_models import random_lora, tiny_host

from dfosd_core.errors import LoraFormatError
from dfosd_core.lora.file import save_lora, write_tensors
from dfosd_core.lora.open import open_lora


def other_header(path: Path, change: Any) -> None:
    blob = path.read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob[8 + length :])


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("dfosd.train_config", "[" * 100_000),
        ("dfosd.base_layout", "[" * 100_000),
        ("dfosd.base_layout", "5"),
        ("dfosd.parts", "5"),
        ("dfosd.parts", "[[[],1]]"),
        ("dfosd.timestep", "9" * 5000),
        ("dfosd.rank", "1e999"),
        ("dfosd.lora_alpha", "x\x1b[31m"),
        ("dfosd.scale", "nan" * 1000),
    ],
)
def test_odd_metadata_is_one_line(tmp_path: Path, entry: str, value: str) -> None:
    path = save_lora(tmp_path / "x.safetensors", random_lora(tiny_host()))
    other_header(path, lambda header: header["__metadata__"].__setitem__(entry, value))
    with pytest.raises(LoraFormatError) as error:
        open_lora(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("stated", [None, 5, [], {"dfosd.format_version": None}, "x"])
def test_metadata_that_is_no_table_is_one_line(tmp_path: Path, stated: object) -> None:
    path = save_lora(tmp_path / "x.safetensors", random_lora(tiny_host()))
    other_header(path, lambda header: header.__setitem__("__metadata__", stated))
    with pytest.raises(LoraFormatError) as error:
        open_lora(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "C64", "U64", "X"])
def test_number_formats_that_are_not_known_are_one_line(tmp_path: Path, dtype: str) -> None:
    path = save_lora(tmp_path / "x.safetensors", random_lora(tiny_host()))
    other_header(path, lambda header: next(v for k, v in header.items() if "alpha" in k).__setitem__("dtype", dtype))
    with pytest.raises(LoraFormatError, match="is damaged or not|is damaged or no"):
        open_lora(path)


@pytest.mark.parametrize(
    "change", ["rank 0", "up of no dimension", "up of one", "alpha of two", "down of no dimension"]
)
def test_halves_that_are_none_are_one_line(tmp_path: Path, change: str) -> None:
    tensors = random_lora(tiny_host()).tensors()
    down = next(key for key in tensors if key.endswith("lora_down.weight"))
    up, alpha = down.replace("lora_down", "lora_up"), down.replace("lora_down.weight", "alpha")
    other = {
        "rank 0": {down: tensors[down][:0], up: tensors[up][:, :0]},
        "up of no dimension": {up: torch.tensor(1.0)},
        "up of one": {up: tensors[up].flatten()},
        "alpha of two": {alpha: torch.ones(2)},
        "down of no dimension": {down: torch.tensor(1.0)},
    }[change]
    path = tmp_path / "x.safetensors"
    write_tensors(path, {**tensors, **other}, random_lora(tiny_host()).header())
    with pytest.raises(LoraFormatError, match="is incomplete: ") as error:
        open_lora(path)
    assert str(error.value).isprintable()
