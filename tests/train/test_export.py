"""An exported LoRA: its header, and that other programs find a place for every one of its tensors."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.utils import convert_unet_state_dict_to_peft
from support import small_networks
from support.diffusers_host import DiffusersHost
from torch import Tensor

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.lora.file import PROMPT_KEY, DfosdLora, load_lora, save_lora
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.names import ldm_unet_key
from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.training.base import build_unet, build_vae, layout_of
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.lora_layers import LoraLayer, inject_lora, lora_pairs
from train_tools.loop import export
from train_tools.settings.config import DataConfig, LossConfig, ModelConfig, RunConfig, TrainConfig, ValidationConfig

LAYOUT = layout_of(build_unet(unet_config()), build_vae(vae_config()), "epsilon")


def config(place: Path = Path("/home/somebody")) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(base=str(place / "sd21-base"), init_lora=place / "start.safetensors"),
        data=DataConfig(photos=place / "photos", presets=["heavy", "light"]),
        loss=LossConfig(vgg=place / "vgg16.safetensors"),
        validation=ValidationConfig(pairs=place / "pairs"),
        run=RunConfig(out=place / "runs" / "first"),
    )


def test_header_has_the_configuration_without_folder_names() -> None:
    header = export.lora_metadata(config(), LAYOUT, 1200, "ab" * 32).to_header()
    assert not [value for value in header.values() if "somebody" in value]
    told = json.loads(header["dfosd.train_config"])
    assert told["trained_steps"] == 1200
    assert (
        told["data"] | {"crop": 512, "batch_size": 8, "presets": ["heavy", "light"], "photos": "photos"} == told["data"]
    )
    assert (told["model"]["base"], told["model"]["init_lora"]) == ("sd21-base", "start.safetensors")
    assert (told["discriminator"]["kind"], told["discriminator"]["base"]) == ("nad", None)
    assert header["dfosd.base_model"] == "sd21-base"
    assert header["dfosd.base_model_sha256"] == "ab" * 32
    assert header["modelspec.title"] == "DFOSD x4 for sd21-base"
    assert header["modelspec.architecture"] == "stable-diffusion-v2-512/lora"


def test_header_is_the_same_each_time_and_names_the_embedded_base() -> None:
    first, second = (export.lora_metadata(TrainConfig(loss=LossConfig(perceptual="none")), LAYOUT, 1, "") for _ in "ab")
    assert first == second
    assert first.base_model == "DFOSD small base"


def test_commit_is_the_checkouts_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", export.git_commit.__wrapped__())
    monkeypatch.setattr(export, "ROOT", tmp_path)
    assert export.git_commit.__wrapped__() == ""
    (tmp_path / ".git").touch()  # a checkout that git cannot read
    assert export.git_commit.__wrapped__() == ""


def test_base_is_hashed_as_the_file_that_is_read(tmp_path: Path) -> None:
    single = tmp_path / "sd21.safetensors"
    single.write_bytes(b"x" * (2**20 + 5))  # more than one block
    assert export.base_sha256(single) == hashlib.sha256(b"x" * (2**20 + 5)).hexdigest()
    unet = tmp_path / "folder" / "unet"
    unet.mkdir(parents=True)
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"old")
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"new")
    assert export.base_sha256(tmp_path / "folder") == hashlib.sha256(b"new").hexdigest()


def test_base_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelMismatchError, match=r"unet' has no weights. Expected diffusion_pytorch_model.safe"):
        export.base_sha256(tmp_path)


def trained_generator() -> tuple[DfosdGenerator, DiffusersHost]:
    """SD 2.1's block layout, thin; LoRA and prompt away from their start."""
    unet, vae = small_networks.small_unet(levels=4), small_networks.small_vae()
    prompt = torch.randn(1, 5, small_networks.CONTEXT_DIM, generator=small_networks.rng(3))
    generator = DfosdGenerator(vae, unet, prompt_embeds=prompt, rank=4, lora_alpha=2.0, rng=small_networks.rng())
    draw = small_networks.rng(4)
    with torch.no_grad():
        for layer in generator.modules():
            if isinstance(layer, LoraLayer):
                layer.up_weight.copy_(torch.randn(layer.up_weight.shape, generator=draw) * 0.3)
    return generator, DiffusersHost(unet, vae, layout_of(unet, vae, "epsilon"))


def exported(generator: DfosdGenerator, host: DiffusersHost, path: Path) -> DfosdLora:
    facts = TrainConfig(model=ModelConfig(rank=4, lora_alpha=2.0), loss=LossConfig(perceptual="none"))
    metadata = export.lora_metadata(facts, host.layout, 3, "")
    return load_lora(save_lora(path, generator.export_lora(metadata, torch.float32)))


def test_exported_lora_means_the_same_to_our_host_and_to_diffusers_own_loader(tmp_path: Path) -> None:
    generator, host = trained_generator()
    lora = exported(generator, host, tmp_path / "lora.safetensors")
    z = torch.randn(2, 4, 16, 16, generator=small_networks.rng(5))
    plain = host.predict_eps(z, 399, lora.prompt_embeds)
    with host.lora(lora, 1.0):
        ours = host.predict_eps(z, 399, lora.prompt_embeds)
    # As a program with diffusers reads a kohya file. The prompt is no LoRA tensor, so it is not handed on.
    tensors = {key: value for key, value in lora.tensors().items() if key != PROMPT_KEY}
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(tensors)[:2]
    assert len(state) == 2 * len(lora.pairs)
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, host.unet)
    with torch.no_grad():
        theirs = host.unet(z, 399, encoder_hidden_states=lora.prompt_embeds.expand(2, -1, -1)).sample
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - plain).abs().max() > 1e-2


def comfyui_key_map(unet: Any) -> dict[str, list[str]]:
    """LoRA layer name -> the weights it means to ComfyUI (as its key map was seen in version 0.3.64): kohya's
    spelling of each weight's diffusers name and of its LDM name, and the LDM name itself.
    """
    meanings: dict[str, list[str]] = {}
    for key in unet.state_dict():
        if key.endswith(".weight"):
            weight = ldm_unet_key(key, 2, (False, True, True, True))
            stems = (key.removesuffix(".weight"), weight.removesuffix(".weight"))
            names = [f"lora_unet_{stem.replace('.', '_')}" for stem in stems] + [f"diffusion_model.{stems[1]}"]
            for name in names:
                meanings.setdefault(name, []).append(weight)
    return meanings


def sd21_file() -> tuple[Any, dict[str, Tensor]]:
    """SD 2.1's UNet, and what a LoRA file for it holds, on the meta device."""
    unet = build_unet(unet_config())
    network = build_unet(unet_config())
    assert inject_lora(network, 16, 16.0, small_networks.rng()) == 278
    lora = DfosdLora(
        pairs=lora_pairs(network, torch.float16),
        prompt_embeds=torch.empty(1, 77, 1024, device="meta"),
        metadata=LoraMetadata(base_layout=LAYOUT, timestep=399, rank=16, lora_alpha=16.0),
    )
    return unet, lora.tensors()


def test_every_tensor_has_exactly_one_place_under_comfyuis_names() -> None:
    unet, file = sd21_file()
    places = {ldm_unet_key(k, 2, (False, True, True, True)): v.shape for k, v in unet.state_dict().items()}
    left, targets = set(file), []
    for name, weights in comfyui_key_map(unet).items():
        keys = {f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"}
        if keys & left:
            assert keys <= left  # whole layers only, and each once
            assert len(weights) == 1
            left -= keys
            targets.append(weights[0])
            down, up = file[f"{name}.lora_down.weight"], file[f"{name}.lora_up.weight"]
            assert (up.shape[0], *down.shape[1:]) == places[weights[0]]
    assert left == {PROMPT_KEY}
    assert len(set(targets)) == len(targets) == 278


def test_ldm_names_of_the_whole_unet_are_what_diffusers_converter_reads() -> None:
    unet = build_unet(unet_config())
    state = unet.state_dict()
    ldm = {f"model.diffusion_model.{ldm_unet_key(key, 2, (False, True, True, True))}": key for key in state}
    assert len(ldm) == len(state)
    read: dict[str, str] = convert_ldm_unet_checkpoint(ldm, unet.config)
    assert read == {key: key for key in state}


def test_every_pair_has_a_place_in_diffusers_kohya_loader() -> None:
    unet, file = sd21_file()
    del file[PROMPT_KEY]
    alphas = {key: torch.tensor(16.0) for key in file if key.endswith(".alpha")}  # their value is read
    state = StableDiffusionLoraLoaderMixin.lora_state_dict(file | alphas)[0]
    names = [name.removeprefix("unet.") for name in convert_unet_state_dict_to_peft(state)]
    layers = {name.rsplit(".lora_", 1)[0] for name in names}
    assert len(set(names)) == 2 * 278
    assert len(layers) == 278
    assert not layers - dict(unet.named_modules()).keys()
