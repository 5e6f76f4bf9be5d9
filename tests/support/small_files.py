"""The files of `peers.PEERS` with a handful of narrow layers: fast to write, for all that is told without a base."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

Entries = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

UNET: Shapes = {
    "conv_in": (8, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1": (8, 8, 3, 3),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (8, 16),
    "mid_block.resnets.0.conv1": (8, 8, 3, 3),
    "up_blocks.0.resnets.0.conv1": (8, 16, 3, 3),
    "conv_out": (4, 8, 3, 3),
}
"""Layer -> its weight's shape in the base."""
ENCODER: Shapes = {"conv_in": (8, 3, 3, 3), "mid_block.attentions.0.to_q": (8, 8), "conv_out": (8, 8, 3, 3)}
VAE: Shapes = {**{f"encoder.{name}": shape for name, shape in ENCODER.items()}, "quant_conv": (8, 8, 1, 1)}
THIRDS = {"encoder": ("conv_in", "down_blocks"), "decoder": ("up_blocks", "conv_out"), "others": ("mid_block",)}
FOLDERS = ("unet_lora_adapter", "vae_encoder_lora_adapter")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILE_NAMES = {"osediff": "osediff.pkl", "pisa_sr": "pisa_sr.pkl", "hypir": "HYPIR_sd2.pth", "omgsr": "OMGSR-S"}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(module: str, weight: tuple[int, ...], rank: int, adapter: str) -> dict[str, Tensor]:
    """Both halves under peft's names; adapter: with its dot, or empty."""
    up = (weight[0], rank, *(1,) * (len(weight) - 2))
    return {
        f"{module}.lora_A{adapter}.weight": random(rank, *weight[1:]),
        f"{module}.lora_B{adapter}.weight": random(*up),
    }


def thirds(shapes: Shapes) -> dict[str, list[str]]:
    return {part: [name for name in shapes if name.startswith(starts)] for part, starts in THIRDS.items()}


def osediff(unet: Shapes = UNET) -> Entries:
    parts = thirds(unet)
    state = {k: v for p, names in parts.items() for n in names for k, v in pair(n, unet[n], 4, f".default_{p}").items()}
    state |= {"conv_in.base_layer.weight": random(8, 4, 3, 3), "conv_in.base_layer.bias": random(8)}
    vae = {k: v for name, shape in VAE.items() for k, v in pair(name, shape, 4, ".default_encoder").items()}
    return {
        **{f"unet_lora_{part}_modules": names for part, names in parts.items()},
        "vae_lora_encoder_modules": [*VAE, *VAE],
        "rank_unet": 4,
        "rank_vae": 4,
        "state_dict_unet": state,
        "state_dict_vae": vae,
    }


def pisa_sr(unet: Shapes = UNET) -> Entries:
    kinds, parts = ("pix", "sem"), thirds(unet)
    state: dict[str, Tensor] = {}
    for kind in kinds:
        for part, names in parts.items():
            for name in names:
                state |= pair(name, unet[name], 4, f".default_{part}_{kind}")
    lists = {f"unet_lora_{part}_modules_{kind}": names for kind in kinds for part, names in parts.items()}
    return {**lists, "lora_rank_unet_pix": 4, "lora_rank_unet_sem": 4, "state_dict_unet": state}


def hypir(unet: Shapes = UNET) -> Entries:
    layers = {name: shape for name, shape in unet.items() if name != "conv_in"}
    return {key: value for n, shape in layers.items() for key, value in pair(n, shape, 256, ".default").items()}


def omgsr(unet: Shapes = UNET) -> Entries:
    entries: Entries = {}
    for folder, shapes, rank in zip(FOLDERS, (unet, ENCODER), (32, 16), strict=True):
        named = {f"base_model.model.{name}": shape for name, shape in shapes.items()}
        entries[folder] = {key: value for n, shape in named.items() for key, value in pair(n, shape, rank, "").items()}
        entries[f"{folder}/{CONFIG}"] = {"r": rank, "lora_alpha": rank, "peft_type": "LORA"}
    return entries


SMALL: dict[str, Callable[..., Entries]] = {"osediff": osediff, "pisa_sr": pisa_sr, "hypir": hypir, "omgsr": omgsr}
"""Name -> what the file holds; for OMGSR-S: folder -> tensors, folder/adapter_config.json -> settings."""


def write(name: str, folder: Path, entries: Mapping[str, Any]) -> Path:
    """The file or folder of this format, in place of one that is there."""
    path = folder / FILE_NAMES[name]
    if name != "omgsr":
        torch.save(dict(entries), path)
        return path
    shutil.rmtree(path, ignore_errors=True)
    for part in FOLDERS:
        (path / part).mkdir(parents=True)
        if part in entries:
            safetensors.torch.save_file(entries[part], path / part / WEIGHTS)
        if f"{part}/{CONFIG}" in entries:
            (path / part / CONFIG).write_text(json.dumps(entries[f"{part}/{CONFIG}"]))
    return path


def records(entries: Mapping[str, Any]) -> dict[str, bytes]:
    """The records of torch.save's archive."""
    buffer = io.BytesIO()
    torch.save(dict(entries), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()
