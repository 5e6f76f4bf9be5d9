"""Files that users of other methods and programs have at hand: each is told apart by its own names, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.small_files import SMALL, write
from torch import Tensor

from dfosd_core.errors import LoraFormatError
from dfosd_core.lora.importers.refused import KNOWN
from dfosd_core.lora.open import open_lora

X = torch.zeros(4, 4)


def refused(path: Path) -> str:
    with pytest.raises(LoraFormatError) as error:
        open_lora(path)
    message = str(error.value)
    assert "\n" not in message
    assert f"'{path.name}'" in message
    assert "expected" in message.lower()
    assert "found" in message
    return message


def of(*names: str, shape: tuple[int, ...] = (4, 4)) -> dict[str, Tensor]:
    return dict.fromkeys(names, torch.zeros(shape))


ATTENTION = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
PEFT_ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"

# What each method's own code saves: the names of its entries and tensors.
PICKLES: dict[str, tuple[str, dict[str, Any]]] = {
    "TADSR": ("is TADSR's: its VAE encoder takes the timestep", {**SMALL["osediff"](), "state_dict_vae_time": of("x")}),
    "CODSR": (
        "is CODSR's: a further network changes the UNet's features",
        {
            **{f"unet_lora_{p}_modules_{kind}": ["a"] for p in ("encoder", "decoder") for kind in ("default", "sam")},
            "vae_lora_encoder_modules": ["a"],
            "rank_unet": 4,
            "rank_vae": 4,
            "state_dict_vae": of("x"),
            "state_dict_unet": of("y"),
            "state_dict_sft": of("SFT_scale_conv0.weight"),
        },
    ),
    "GDPO-SR": (
        "is GDPO-SR's: it adds noise to the latent",
        {key: value for key, value in SMALL["osediff"]().items() if "vae" not in key},
    ),
    "NAOSD": (
        "is GDPO-SR's: it adds noise to the latent",
        {**SMALL["osediff"](), "vae_lora_decoder_modules": ["a"], "vae_lora_others_modules": ["b"]},
    ),
    "S3Diff": (
        "is S3Diff's: its LoRA changes with every picture",
        {
            "unet_lora_target_modules": ["to_k"],
            "vae_lora_target_modules": "^encoder",
            "rank_unet": 32,
            "rank_vae": 16,
            "state_dict_unet": of("a"),
            "state_dict_vae": of("b"),
            "w": torch.zeros(64),
            **{f"state_dict_{net}_{part}_mlp": of("0.weight") for net in ("vae", "unet") for part in ("de", "fuse")},
            "state_embeddings": {"state_dict_vae_block": of("weight"), "state_dict_unet_block": of("weight")},
        },
    ),
    "AdcSR's osediff.pkl": (
        r"is OSEDiff's, already merged into a whole UNet and VAE: .* Expected OSEDiff's own osediff\.pkl",
        {"vae": of("encoder.conv_in.weight"), "unet": of("conv_in.weight")},
    ),
    "AdcSR": ("is AdcSR's: it is a network of its own", of("module.body.1.conv_in.weight", "module.body.2.x.weight")),
    "InvSR": (
        "is InvSR's: it predicts noise for SD-Turbo",
        of("encoder.conv_in.weight", "encoder.time_embedding.linear_1.weight", "encoder.conv_out.weight"),
    ),
    "InvSR, in training": (
        "is InvSR's: it predicts noise for SD-Turbo",
        {"iters_start": 1, "state_dict": of("encoder.conv_in.weight", "encoder.time_embedding.linear_1.weight")},
    ),
    "SinSR": (
        "is SinSR's or ResShift's: it is a network of its own",
        {**of("time_embed.0.weight"), **of("input_blocks.0.0.weight", shape=(160, 6, 3, 3))},
    ),
    "SinSR, in training": (
        "is SinSR's or ResShift's",
        {"state_dict": {**of("time_embed.0.weight"), **of("input_blocks.0.0.weight", shape=(160, 6, 3, 3))}},
    ),
    "SeedVR2": (
        "is SeedVR2's: .* SeedVR2 runs in ComfyUI",
        of("vid_in.proj.weight", "txt_in.weight", "vid_out.proj.weight", "blocks.0.attn.proj_qkv.vid.weight"),
    ),
    "VOSR's light decoder": (
        r"is VOSR's light decoder: it takes the place of the VAE's decoder .* Give it as the decoder \(--decoder\)",
        {"config": {"block_out_channels": [64, 128]}, "model_state_dict": of("conv_in.weight", "up_blocks.0.x.weight")},
    ),
    "textual inversion": (
        "is a textual inversion: it is a word for prompts",
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 1024)}, "name": "x", "step": 5},
    ),
    "ControlNet": ("is a ControlNet: it steers", {"state_dict": of("control_model.input_hint_block.0.weight")}),
    "a checkpoint": (
        "is a whole base model or a part of one: .* Give it as the base",
        {"state_dict": of("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight")},
    ),
    "a UNet": ("is a whole base model or a part of one", of("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight")),
    "an upscaler": (
        f"is no LoRA that DFOSD knows: expected one of {KNOWN}, found 1 entries, first params_ema",
        {"params_ema": of("conv_first.weight")},
    ),
    "something": ("is no LoRA that DFOSD knows: expected one of .* found 1 entries, first x", {"x": 1}),
    "nothing": ("is no LoRA that DFOSD knows: expected one of .* found 0 entries, first none", {}),
}

SAFETENSORS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "TSD-SR, transformer": (
        "is TSD-SR's: its base is Stable Diffusion 3",
        of("transformer.pos_embed.proj.lora_A.weight", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
    ),
    "TSD-SR, VAE": (
        "is TSD-SR's",
        of("transformer.encoder.conv_in.lora_A.weight", "transformer.quant_conv.lora_A.weight"),
    ),
    "VOSR": (
        "is VOSR's: .* VOSR 2 runs in its own ComfyUI nodes",
        of("x_embedder.proj.weight", "t_block.1.weight", "mlp_ca.fc1.weight", "blocks.0.attn.qkv.weight"),
    ),
    "SeedVR2": ("is SeedVR2's", of("vid_in.proj.weight", "vid_out.proj.weight")),
    "AddSR's UNet": ("is a part of AddSR or SeeSR", of("down_blocks.0.image_attentions.0.proj_in.weight")),
    "SDXL, kohya": (
        "is a LoRA for SDXL: its layers are those of another base",
        of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"),
    ),
    "SDXL, kohya's text encoder": ("is a LoRA for SDXL", of("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha")),
    "SDXL, kohya in diffusers' names": (
        "is a LoRA for SDXL: its base has a context of 2048",
        of(f"lora_unet_{ATTENTION}.lora_down.weight", shape=(4, 2048)),
    ),
    "SDXL, PEFT": ("context of 2048", of(f"unet.{PEFT_ATTENTION}.to_k.lora_A.weight", shape=(4, 2048))),
    "SDXL, diffusers": ("context of 2048", of(f"unet.{PEFT_ATTENTION}.to_v.lora.down.weight", shape=(4, 2048))),
    "SD 1.5, kohya": (
        "is a LoRA for Stable Diffusion 1.5: its base has a context of 768",
        of(f"lora_unet_{ATTENTION}.lora_down.weight", shape=(4, 768)),
    ),
    "SD 1.5, PEFT": ("context of 768", of(f"base_model.model.{PEFT_ATTENTION}.to_v.lora_A.weight", shape=(4, 768))),
    "SD 1.5, PEFT with a name": (
        "context of 768",
        of(f"{PEFT_ATTENTION}.to_v.lora_A.default.weight", shape=(256, 768)),
    ),
    "SD 1.5, diffusers": ("context of 768", of(f"{PEFT_ATTENTION}.processor.to_k_lora.down.weight", shape=(4, 768))),
    "SD 3, kohya": (
        "is a LoRA for Stable Diffusion 3 or another transformer",
        of("lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight"),
    ),
    "SD 3, diffusers": (
        "is a LoRA for Stable Diffusion 3 or another transformer",
        of("transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight"),
    ),
    "Flux, kohya": ("is a LoRA for Flux", of("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight")),
    "Flux, diffusers": (
        "is a LoRA for Flux",
        of("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight", "transformer.x_embedder.lora_A.weight"),
    ),
    "Flux, PEFT": ("is a LoRA for Flux", of("base_model.model.single_transformer_blocks.0.attn.to_k.lora_A.weight")),
    "Flux, XLabs": ("is a LoRA for Flux", of("double_blocks.0.processor.proj_lora1.down.weight")),
    "LoHa": ("is a LyCORIS file", of("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a")),
    "LoKr": ("is a LyCORIS file", of("lora_unet_mid_block_attentions_0_proj_in.lokr_w1")),
    "textual inversion": ("is a textual inversion", of("emb_params", shape=(2, 1024))),
    "textual inversion, diffusers": ("is a textual inversion", of("<cat-toy>", shape=(1, 1024))),
    "textual inversion, SDXL": ("is a textual inversion", of("clip_l", "clip_g", shape=(1, 768))),
    "textual inversion of a plain name": ("is a textual inversion", of("cat", shape=(3, 1024))),
    "ControlNet, diffusers": (
        "is a ControlNet",
        of("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    ),
    "ControlNet, LDM": ("is a ControlNet", of("control_model.zero_convs.0.0.weight")),
    "ControlNet of pairs": ("is a ControlNet", of("lora_controlnet", "input_hint_block.0.weight")),
    "ControlNet, lllite": ("is a ControlNet", of("lllite_unet_input_blocks_4_1.down.0.weight")),
    "VOSR's light decoder alone": (
        r"is VOSR's light decoder: .* Give it as the decoder \(--decoder\)",
        of("conv_in.weight", "up_blocks.0.resnets.0.conv1.weight", "conv_norm_out.weight"),
    ),
    "TAESD": (
        r"is TAESD's light decoder: .* Give it as the decoder \(--decoder\)",
        of("1.weight", "3.conv.0.weight", "19.weight"),
    ),
    "a checkpoint": ("is a whole base model", of("model.diffusion_model.input_blocks.0.0.weight")),
    "a VAE": ("is a whole base model or a part of one", of("encoder.down_blocks.0.resnets.0.conv1.weight")),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickle_is_told_apart(name: str, tmp_path: Path) -> None:
    message, entries = PICKLES[name]
    torch.save(entries, tmp_path / "x.pkl")
    with pytest.raises(LoraFormatError, match=message):
        open_lora(tmp_path / "x.pkl")
    refused(tmp_path / "x.pkl")


@pytest.mark.parametrize("name", SAFETENSORS)
@pytest.mark.parametrize("as_pickle", [False, True], ids=["safetensors", "pickle"])
def test_flat_file_is_told_apart(name: str, as_pickle: bool, tmp_path: Path) -> None:
    message, tensors = SAFETENSORS[name]
    path = tmp_path / ("x.pth" if as_pickle else "x.safetensors")
    copies = {key: value.clone() for key, value in tensors.items()}
    torch.save(copies, path) if as_pickle else safetensors.torch.save_file(copies, path)
    with pytest.raises(LoraFormatError, match=message):
        open_lora(path)
    refused(path)


def test_large_safetensors_file_is_told_apart_by_its_header(tmp_path: Path) -> None:
    """Five gigabytes that are not there are not missed."""
    path = tmp_path / "x.safetensors"
    name = "model.diffusion_model.input_blocks.0.0.weight"
    text = f'{{"{name}": {{"dtype": "F16", "shape": [2500000000], "data_offsets": [0, 5000000000]}}}}'.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert "is a whole base model" in refused(path)


FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "AddSR": ("is AddSR's or SeeSR's: it is a whole UNet with a ControlNet", ("unet/config.json", "controlnet/x")),
    "TSD-SR": ("is TSD-SR's: its base is Stable Diffusion 3", ("transformer.safetensors", "vae.safetensors")),
    "OMGSR-F": ("is OMGSR-F's: its base is Flux", ("flux_adapter/x", "vae_encoder_adapter/x")),
    "VOSR": ("is VOSR's: it is a network of its own", ("args.json", "checkpoints/ema_model.safetensors")),
    "GDPO-SR, merged": ("is a base model: it holds weights", ("unet/config.json", "vae/config.json")),
    "pictures": ("is no LoRA: expected a file, or OMGSR-S's folder .* found a folder with a.png", ("a.png",)),
    "nothing": ("is no LoRA: expected a file, or OMGSR-S's folder .* found a folder with nothing", ()),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_is_told_apart(name: str, tmp_path: Path) -> None:
    message, files = FOLDERS[name]
    folder = tmp_path / "x"
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    with pytest.raises(LoraFormatError, match=message):
        open_lora(folder)
    refused(folder)


@pytest.mark.parametrize("name", SMALL)
def test_files_that_are_taken_are_none_of_these(name: str, tmp_path: Path) -> None:
    open_lora(write(name, tmp_path, SMALL[name]()))


def test_lora_of_stable_diffusion_2_is_none_of_these(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(of(f"lora_unet_{ATTENTION}.lora_down.weight", shape=(4, 1024)), path)
    with pytest.raises(LoraFormatError, match="an ordinary LoRA without DFOSD's metadata"):
        open_lora(path)


@pytest.mark.parametrize("width", [768, 1024, 1280, 4096])
def test_word_for_prompts_of_any_text_encoder_is_told_apart(width: int, tmp_path: Path) -> None:
    for name, shape in (("cat", (width,)), ("cat", (2, width))):
        safetensors.torch.save_file({name: torch.zeros(shape)}, tmp_path / "x.safetensors")
        assert "is a textual inversion" in refused(tmp_path / "x.safetensors")
