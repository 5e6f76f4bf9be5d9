"""Checkpoints and diffusers folders that are broken in every way found so far: one line, at once, in little memory."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.tiny_models import ldm_tensors, tiny_host
from torch import Tensor

from dfosd_core import tensor_files
from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.networks.config import UnetConfig
from dfosd_core.networks.reading import read_base, read_checkpoint
from dfosd_core.networks.sd_configs import unet_config
from dfosd_core.tensor_files import context_dim, kind_of_file

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return ldm_tensors(tiny_host())


def refused(path: Path, words: str = "") -> None:
    began = time.process_time()
    with pytest.raises(BaseModelMismatchError, match=words or ".") as error:
        read_base(path)
    assert time.process_time() - began < 10
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500
    assert path.name in str(error.value)


DOWN, UP = (f"one of {kind}, CrossAttn{kind} for each level" for kind in ("DownBlock2D", "UpBlock2D"))


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("block_out_channels", ([], (), 64, None, [64] * 9), "a list of widths"),
        ("down_block_types", ([], [[], [], [], []], [1, 2, 3, 4], 4, None, "DownBlock2D"), DOWN),
        ("up_block_types", ([], [[], [], [], []], ["UpBlock2D"] * 3, 4, None, "UpBlock2D"), UP),
    ],
)
def test_levels_of_a_unet_are_told_to_be_lists_of_one_length(key: str, values: tuple[Any, ...], expected: str) -> None:
    for value in values:
        words = re.escape(f"{key} is {value!r}, expected {expected}. Give SD 2.1-base.")
        with pytest.raises(BaseModelMismatchError, match=f"^'x' is no model that DFOSD runs on its own: {words}$"):
            UnetConfig.from_diffusers(unet_config() | {key: value}, "x")


CHANGES: dict[str, Callable[[dict[Any, Any]], object]] = {
    "a block of a number without end": lambda x: x | {f"{UNET}input_blocks.99999999.0": torch.zeros(1)},
    "only a block that has no number": lambda x: (
        {k: v for k, v in x.items() if "input_blocks.0.0" in k}
        | {f"{UNET}input_blocks.x": torch.zeros(1), "first_stage_model.decoder.conv_in.weight": torch.zeros(8, 4, 3, 3)}
    ),
    "an incomplete UNet": lambda x: {k: v for k, v in x.items() if ".output_blocks." not in k},
    "no encoder": lambda x: {k: v for k, v in x.items() if ".encoder." not in k},
    "a first layer of no dimension": lambda x: x | {f"{UNET}input_blocks.0.0.weight": torch.tensor(1.0)},
    "a width that norms cannot divide": lambda x: (
        x | {f"{UNET}input_blocks.1.0.out_layers.3.weight": torch.zeros(100, 64, 3, 3)}
    ),
    "an empty width": lambda x: x | {f"{UNET}input_blocks.1.0.out_layers.3.weight": torch.zeros(0, 64, 3, 3)},
}
PICKLED: dict[str, Callable[[dict[Any, Any]], object]] = {
    "keys that are no text": lambda x: x | {7: torch.zeros(1)},
    "a list": lambda x: list(x.values()),
    "a state of a list": lambda x: {"state_dict": list(x.values())[:3]},
    "a state of a tensor": lambda x: {"state_dict": torch.zeros(3)},
    "a state with keys that are no text": lambda x: {"state_dict": x | {7: torch.zeros(1)}},
    "more than it holds": lambda x: x | {f"{UNET}x": torch.zeros(1).expand(70_000, 70_000)},
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("change", list(CHANGES))
def test_checkpoint_of_other_tensors_is_one_line(
    tensors: dict[str, Tensor], change: str, suffix: str, tmp_path: Path
) -> None:
    changed: Any = CHANGES[change](dict(tensors))
    path = tmp_path / f"base{suffix}"
    torch.save(changed, path) if suffix == ".ckpt" else safetensors.torch.save_file(changed, path)
    refused(path)


def test_other_tensors_beside_a_whole_checkpoint_do_no_harm(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    more = {f"{UNET}input_blocks.{'9' * 5000}.0": torch.zeros(1), "a\nb": torch.zeros(1)}
    safetensors.torch.save_file(tensors | more, tmp_path / "base.safetensors")
    found = read_base(tmp_path / "base.safetensors").unet.state_dict()["conv_in.weight"]
    assert torch.equal(found, tensors[f"{UNET}input_blocks.0.0.weight"])


@pytest.mark.parametrize("change", list(PICKLED))
def test_pickle_of_other_things_is_one_line(tensors: dict[str, Tensor], change: str, tmp_path: Path) -> None:
    torch.save(PICKLED[change](dict(tensors)), tmp_path / "base.ckpt")
    refused(tmp_path / "base.ckpt", "is damaged or no model file: expected ")


def test_old_pickle_is_read_by_a_torch_that_is_safe_alone(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 2.10 `weights_only` could be got round."""
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path).prediction_type == "epsilon"
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")

    def load(*_: object, **__: object) -> None:
        pytest.fail("torch has opened it")

    monkeypatch.setattr(tensor_files, "_torch_load", load)
    refused(path, r"which torch 2\.9\.1\+cpu cannot read safely\. Install torch 2\.10 or newer")
    torch.save({"state_dict": tensors}, tmp_path / "new.ckpt")
    assert read_checkpoint(tmp_path / "new.ckpt").prediction_type == "epsilon", "read without torch's unpickler"


TEXTS: dict[str, bytes | None] = {
    "a list": b"[1]",
    "null": b"null",
    "a number": b"5",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "no UTF-8": b'{"a": "\xff"}',
    "a number of 5,000 digits": b'{"in_channels": ' + b"9" * 5000 + b"}",
    "a folder": None,
}


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", list(TEXTS))
def test_settings_that_are_none_are_one_line(file: str, text: str, tmp_path: Path) -> None:
    folder = configurations(tmp_path)
    (folder / file).unlink()
    content = TEXTS[text]
    (folder / file).mkdir() if content is None else (folder / file).write_bytes(content)
    refused_folder(folder)


VALUES: dict[str, tuple[Any, ...]] = {
    "in_channels": ("4", 0, None, -1, True, 4.0, [4], 10**30),
    "out_channels": ("4", 0, None, -1, 10**30),
    "block_out_channels": (None, 5, "64", [], [0, 0], [64, "x"], [64, -128], [1.5, 2], [64] * 50, [10**9, 10**9]),
    "layers_per_block": (0, None, -1, "2", 1_000_000, [1, 2]),
    "down_block_types": (None, 5, ["Unknown", "DownBlock2D"], [[], []], ["DownBlock2D"] * 50, "DownBlock2D"),
    "act_fn": ("gelu", None, 5, ["silu"]),
    "attention_head_dim": (0, -1, None, "8", [0, 1], [1], [7, 7], 10**9),
    "norm_num_groups": (0, -1, "32", None, 7, 10**9),
    "norm_eps": (0, -1, "x", None, float("nan"), 1e999),
    "cross_attention_dim": (0, None, [24], "x"),
    "use_linear_projection": (None, 1, "true"),
    "prediction_type": (),
}


@pytest.mark.parametrize("key", list(VALUES))
def test_wrong_values_in_the_settings_of_a_unet_are_one_line(key: str, tmp_path: Path) -> None:
    folder = configurations(tmp_path)
    file = folder / "unet" / "config.json"
    config = json.loads(file.read_text())
    for value in VALUES[key]:
        file.write_text(json.dumps(config | {key: value}))
        refused_folder(folder)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("latent_channels", ("4", 0, None, -1)),
        ("scaling_factor", ("x", 0, None, -1, float("inf"), [1])),
        ("shift_factor", ("x", [1], float("nan"))),
        ("mid_block_add_attention", (None, 1, "yes")),
        ("layers_per_block", (0, 1_000_000, "1")),
        ("norm_num_groups", (0, 7, "32")),
    ],
)
def test_wrong_values_in_the_settings_of_an_autoencoder_are_one_line(
    key: str, values: tuple[Any, ...], tmp_path: Path
) -> None:
    folder = configurations(tmp_path)
    file = folder / "vae" / "config.json"
    config = json.loads(file.read_text())
    for value in values:
        file.write_text(json.dumps(config | {key: value}))
        refused_folder(folder)


def test_folders_in_the_place_of_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "unet").write_text("no folder")
    refused_folder(tmp_path / "base")


@pytest.mark.parametrize("header", [b"5", b"null", b"[1]", b"[" * 50_000, b'"text"', b"{}", b'{"__metadata__": null}'])
@pytest.mark.parametrize("name", ["x.safetensors", "taesd_decoder.safetensors"])
def test_header_that_is_no_object_is_another_kind_of_file(header: bytes, name: str, tmp_path: Path) -> None:
    """The app lists the folder with such a file in it."""
    path = tmp_path / name
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert kind_of_file(path) == "other"
    assert context_dim(path) is None
    refused(path)


def test_condition_of_an_odd_header_is_unknown(tmp_path: Path) -> None:
    key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    for entry in (5, None, {}, {"shape": 5}, {"shape": [1, "x"]}, {"shape": [1]}):
        text = json.dumps({key: entry}).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        assert context_dim(tmp_path / "x.safetensors") is None


def configurations(place: Path) -> Path:
    """A diffusers folder without weights: its settings are looked at first."""
    host, folder = tiny_host(), place / "base"
    for part, model in (("unet", host.unet), ("vae", host.vae)):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(dict(model.config), default=list))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    return folder


def refused_folder(folder: Path) -> None:
    refused(folder)
    with pytest.raises(BaseModelMismatchError) as error:
        read_base(folder)
    assert "has no weights" not in str(error.value), "its settings were taken"
