"""SDXL's UNet for D3SR's discriminator, from a diffusers folder and from a checkpoint; narrow, in SDXL's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.small_networks import rng
from support.tiny_models import fill
from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.lora.names import ldm_unet_key
from dfosd_core.training import sdxl
from dfosd_core.training.base import build_unet
from dfosd_core.training.sdxl import SdxlDiscriminator, read_sdxl_unet

SMALL = {
    **sdxl.SDXL_UNET,
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (1, 2, 2),
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 16,
}
START = "model.diffusion_model."
ADDED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
"""As Stability AI's generative-models names SDXL's added embedding."""


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """In diffusers' names, with the up path."""
    return fill(build_unet(SMALL), 4).state_dict()


@pytest.fixture
def folder(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps(SMALL))
    safetensors.torch.save_file(weights, tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    return tmp_path / "base"


def ldm_name(key: str) -> str:
    module, _, kind = key.rpartition(".")
    return f"{START}{ADDED[module]}.{kind}" if module in ADDED else START + ldm_unet_key(key, 2, (True, True, False))


@pytest.fixture
def checkpoint(weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its file says nothing of its widths: they are SDXL's."""
    monkeypatch.setattr(sdxl, "SDXL_UNET", SMALL)
    named = {ldm_name(key): value for key, value in weights.items()}
    published = ("time_embed.0.weight", "label_emb.0.0.bias", "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight")
    assert {START + name for name in published} < set(named)
    safetensors.torch.save_file(named, tmp_path / "sd_xl_base_1.0.safetensors")
    return tmp_path / "sd_xl_base_1.0.safetensors"


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
def test_half_that_is_used_is_read(kind: str, weights: dict[str, Tensor], request: pytest.FixtureRequest) -> None:
    unet = read_sdxl_unet(request.getfixturevalue(kind))
    found = unet.state_dict()
    assert {key for key in weights if not key.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))} == set(found)
    assert all(torch.equal(value, weights[key]) for key, value in found.items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert SdxlDiscriminator(unet, rank=2, rng=rng())(torch.randn(1, 4, 8, 8), torch.tensor([7])).isfinite().all()


def test_other_files_and_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "unet").mkdir(parents=True)
    (tmp_path / "base.ckpt").write_bytes(b"")
    for path in (tmp_path / "empty", tmp_path / "base.ckpt", tmp_path / "gone.safetensors"):
        with pytest.raises(ConfigError, match=f"^discriminator.base: expected SDXL 1.0-base as .* found '{path}'"):
            read_sdxl_unet(path)
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json' is missing or no JSON"):
        read_sdxl_unet(folder)


def test_weights_that_are_missing_or_of_another_shape_are_counted(checkpoint: Path) -> None:
    tensors = safetensors.torch.load_file(checkpoint)
    del tensors[f"{START}label_emb.0.2.bias"]
    tensors[f"{START}label_emb.0.0.weight"] = torch.zeros(3)
    safetensors.torch.save_file(tensors, checkpoint)
    words = rf"^discriminator.base: 2 of \d+ weights are missing in '{checkpoint}' or of another shape, first "
    with pytest.raises(ConfigError, match=words + r"model\.diffusion_model\.label_emb\.0\.0\.weight\. Give SDXL"):
        read_sdxl_unet(checkpoint)
