"""Ordinary LoRAs that are damaged, changed or meant to do harm: each is refused in one line, and none runs code."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.peers import write_base
from test_convert import SPELLINGS, kohya, pairs, spelled
from torch import Tensor

from dfosd_core.errors import DfosdError
from dfosd_core.exchange import convert as module
from dfosd_core.exchange.base_files import BaseFiles, open_base
from dfosd_core.exchange.convert import Usage, convert

KINDS = ("kohya", "peft", "diffusers")
TENSOR_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "not_finite": lambda x: torch.full_like(x, float("nan")),
    "infinite": lambda x: torch.cat([x.flatten()[:-1], torch.tensor([float("-inf")])]).reshape(x.shape),
    "whole_numbers": lambda x: x.int(),
    "double": lambda x: x.double(),
    "longer": lambda x: torch.cat([x, x[:1]]),
    "shorter": lambda x: x[:-1],
    "wider": lambda x: torch.cat([x, x], dim=1),
    "flat": lambda x: x.flatten(),
    "one_value": lambda x: x.flatten()[0].clone(),
    "empty": lambda x: x[:0],
    "no_rank": lambda x: x[:, :0],
}
NAME_CHANGES: dict[str, Callable[[str], str | None]] = {
    "missing": lambda key: None,
    "renamed_layer": lambda key: key.replace("block", "blick"),
    "renamed_part": lambda key: key.replace("weight", "wait"),
    "text_encoder": lambda key: f"text_encoder.{key}" if "." in key.split("_")[0] else f"lora_te_{key}",
    "newline": lambda key: f"{key}\n",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(autouse=True)
def _base_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_base", _opened)


@cache
def _opened(path: Path) -> BaseFiles:
    return open_base(path)


FOUND = cache(pairs)


def tensors(kind: str) -> dict[str, Tensor]:
    return kohya(FOUND(), 4.0) if kind == "kohya" else spelled(FOUND(), SPELLINGS[kind])


def refused(path: Path, base: Path) -> str:
    with pytest.raises(DfosdError) as error:
        convert(path, Usage(200, "eps-x0"), base=base)
    message = str(error.value)
    assert "\n" not in message
    assert f"'{path.name}'" in message
    return message


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("change", [*TENSOR_CHANGES, *NAME_CHANGES])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_tensor_is_refused(kind: str, change: str, where: float, base: Path, tmp_path: Path) -> None:
    """192 variants, half of them as pickles."""
    found = tensors(kind)
    halves = sorted(key for key in found if not key.endswith("alpha"))
    key = halves[int(where * len(halves))]
    value = found.pop(key)
    if change in TENSOR_CHANGES:
        found[key] = TENSOR_CHANGES[change](value).clone()
    elif (new := NAME_CHANGES[change](key)) is not None:
        assert new != key
        found[new] = value
    path = tmp_path / "x.safetensors"
    if where in (0.0, 0.6):
        safetensors.torch.save_file(found, path)
    else:
        torch.save(found, path)
    refused(path, base)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("pickled", [False, True])
def test_truncated_file_is_refused(pickled: bool, part: float, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    torch.save(tensors("peft"), path) if pickled else safetensors.torch.save_file(tensors("peft"), path)
    blob = path.read_bytes()
    path.write_bytes(blob[: int(part * len(blob))])
    refused(path, base)


class Harm:
    """Unpickled as it asks for, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_code_in_a_pickle_is_not_run(base: Path, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "x.pt"
    torch.save({**tensors("peft"), "harm": Harm(victim)}, path)
    refused(path, base)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the file would have done harm"


SETTINGS: list[Any] = [
    [],
    "text",
    {},
    {"lora_alpha": "8"},
    {"lora_alpha": -1},
    {"lora_alpha": True},
    {"lora_alpha": float("nan")},
    {"lora_alpha": 8, "use_dora": True},
    {"lora_alpha": 8, "alpha_pattern": {"conv1": 4}},
    {"lora_alpha": 8, "modules_to_save": ["conv_in"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_other_peft_settings_are_refused(settings: Any, base: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    safetensors.torch.save_file(tensors("peft"), tmp_path / "a" / "adapter_model.safetensors")
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(settings))
    refused(tmp_path / "a", base)
    if isinstance(settings, dict) and settings:  # as diffusers has them in a header
        stated = json.dumps({f"unet.{key}": value for key, value in settings.items()})
        header = {"lora_adapter_metadata": stated}
        safetensors.torch.save_file(tensors("peft"), tmp_path / "x.safetensors", header)
        refused(tmp_path / "x.safetensors", base)
