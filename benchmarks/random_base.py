"""Stable Diffusion 2.1's layout with random weights: for measuring and testing at full size without the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dfosd_core.networks.sd_configs import Config, unet_config, vae_config
from dfosd_core.networks.unet import build_unet
from dfosd_core.networks.vae import build_vae
from dfosd_core.training.dists import VGG16_STAGES, VGG16_WIDTHS


def random_half(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random float16 weights that keep the signal's size, for a model on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        noise = torch.empty(parameter.shape).uniform_(-1.7, 1.7, generator=generator)
        if parameter.ndim > 1:
            weights[name] = noise.div_(parameter[0].numel() ** 0.5).half()
        else:
            weights[name] = noise.mul_(0.05).add_(1.0 if name.endswith("weight") else 0.0).half()
    return weights


def fill_randomly(network: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """Give a network on the meta device such weights, for inference, as our program holds them."""
    placed: dict[str, Tensor] = {}
    for key, value in random_half(network, 0).items():
        memory_format = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        placed[key] = value.to(device, dtype, memory_format=memory_format)
    network.load_state_dict(placed, assign=True)
    network.eval().requires_grad_(False)


def save_part(weights: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Write a UNet or VAE as diffusers lays it out."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, default=list))
    safetensors.torch.save_file(weights, folder / "diffusion_pytorch_model.fp16.safetensors")


def write_zero_vgg(path: Path) -> Path:
    """Write VGG16's convolutions, all zero, for DISTS without values (float16, 29 MB); return `path`."""
    tensors: dict[str, Tensor] = {}
    inputs = 3
    for stage, width in zip(VGG16_STAGES, VGG16_WIDTHS, strict=True):
        for index in stage:
            tensors[f"{index}.weight"] = torch.zeros(width, inputs, 3, 3, dtype=torch.float16)
            tensors[f"{index}.bias"] = torch.zeros(width, dtype=torch.float16)
            inputs = width
    safetensors.torch.save_file(tensors, path)
    return path


def write_random_base(folder: Path, unet: Config, vae: Config) -> Path:
    """Write `folder`/unet and `folder`/vae of these layouts (float16); return `folder`."""
    save_part(random_half(build_unet(unet, "random"), 0), unet, folder / "unet")
    save_part(random_half(build_vae(vae, "random"), 1), vae, folder / "vae")
    return folder


def write_random_sd21(folder: Path) -> Path:
    """`write_random_base` of SD 2.1's layout: 1.9 GB."""
    return write_random_base(folder, unet_config(), vae_config())
