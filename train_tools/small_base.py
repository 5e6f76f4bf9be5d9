"""The embedded small base: its layout, and reading and writing it as a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from safetensors.torch import load_file, save
from torch import nn

from dfosd_core.files import write_text, write_whole
from dfosd_core.training.base import config_of, remove_self_attention, repeat_all_borders, replace_group_norms

if TYPE_CHECKING:  # slow to import
    from diffusers import AutoencoderKL, UNet2DConditionModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)

LATENT_CHANNELS = 16
CONTEXT_DIM = 64
PROMPT_TOKENS = 8


def make_vae() -> AutoencoderKL:
    """An autoencoder with f = 4 and 16 latent channels: no attention, no statistics, a finite receptive field."""
    from diffusers import AutoencoderKL

    vae = cast("Any", AutoencoderKL)(  # annotated upstream as one-tuples
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=512,
        scaling_factor=1.0,
    )
    replace_group_norms(vae)
    repeat_all_borders(vae)
    initialize(vae)
    return vae


def make_unet() -> UNet2DConditionModel:
    """An eps-predicting UNet whose only attention is to the prompt, so that it too sees a finite neighbourhood."""
    from diffusers import UNet2DConditionModel

    unet = cast("Any", UNet2DConditionModel)(
        sample_size=128,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        block_out_channels=(128, 192),
        layers_per_block=2,
        cross_attention_dim=CONTEXT_DIM,
        attention_head_dim=(4, 6),
        only_cross_attention=True,
        mid_block_only_cross_attention=True,
        use_linear_projection=True,
        norm_num_groups=1,
    )
    replace_group_norms(unet)
    remove_self_attention(unet)
    repeat_all_borders(unet)
    initialize(unet)
    return unet


def initialize(module: nn.Module) -> None:
    """Initialise a network without norms: every convolution keeps the variance, residual branches start small."""
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if name.endswith((".conv2", ".to_out.0", ".net.2", ".proj_out")):
                layer.weight.data.mul_(0.3)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def channels_last(network: ModuleT) -> ModuleT:
    """`network` with its convolutions' channels last, the faster layout on a CPU."""
    return cast("ModuleT", cast("Any", network).to(memory_format=torch.channels_last))


def save_part(module: nn.Module, folder: Path) -> None:
    """Write config.json and float16 weights of a VAE or UNet into `folder`, the way diffusers lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in config_of(cast("Any", module)).items() if name[0] != "_"}
    config["_class_name"] = type(module).__name__
    weights = {name: value.to(torch.float16).contiguous() for name, value in module.state_dict().items()}
    with write_whole(folder / "diffusion_pytorch_model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_vae(folder: Path) -> AutoencoderKL:
    """Read back what `save_part` wrote of `make_vae`."""
    vae = make_vae()
    vae.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    vae.register_to_config(scaling_factor=json.loads((folder / "config.json").read_text())["scaling_factor"])
    return vae
