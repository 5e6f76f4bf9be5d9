"""Random models of SD's layout, narrow and shallow, with LoRAs on them and files of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dfosd_core.hosts.own import OwnHost
from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.names import kohya_name, ldm_unet_key, ldm_vae_key, lora_target_names
from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.training.base import build_unet, build_vae, layout_of

from .diffusers_host import DiffusersHost

TINY_UNET = unet_config(
    block_out_channels=(64, 128), layers_per_block=1, attention_levels=(True, False), context_dim=24
)
TINY_VAE = vae_config(block_out_channels=(64, 64), layers_per_block=1)


def fill(model: nn.Module, seed: int) -> Any:
    """Give a meta-device model random weights: matrices that keep the signal's size, norms and biases that
    are not neutral.
    """
    generator = torch.Generator().manual_seed(seed)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(noise * 0.05 + (1.0 if name.endswith("weight") else 0.0))
    return model


def tiny_host(seed: int = 0, prediction_type: str = "epsilon", **unet_changes: Any) -> DiffusersHost:
    unet = fill(build_unet({**TINY_UNET, **unet_changes}), seed)
    vae = fill(build_vae(TINY_VAE), seed + 1)
    return DiffusersHost(unet, vae, layout_of(unet, vae, prediction_type))


def random_lora(host: DiffusersHost | OwnHost, seed: int = 7, rank: int = 4, size: float = 0.5) -> DfosdLora:
    """A LoRA on all of DFOSD's target layers, its `up` matrices well away from zero."""
    generator = torch.Generator().manual_seed(seed)
    pairs: dict[str, LoraPair] = {}
    for name in lora_target_names(host.unet):
        weight = host.unet.get_parameter(f"{name}.weight")
        down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
        up = torch.randn(weight.shape[0], rank, *(1,) * (weight.ndim - 2), generator=generator)
        pairs[kohya_name(name)] = LoraPair(down=down, up=up * size / rank**0.5, alpha=2.0 * rank)
    prompt_embeds = torch.randn(1, 7, host.layout.context_dim, generator=generator)
    metadata = LoraMetadata(base_layout=host.layout, timestep=399, rank=rank, lora_alpha=2.0 * rank)
    return DfosdLora(pairs=pairs, prompt_embeds=prompt_embeds, metadata=metadata)


def ldm_tensors(host: DiffusersHost) -> dict[str, Tensor]:
    """The host's weights as an LDM checkpoint has them."""
    unet_facts, vae_facts = host.unet.config, host.vae.config
    up_has_attention = [kind.startswith("CrossAttn") for kind in unet_facts["up_block_types"]]
    tensors: dict[str, Tensor] = {}
    for key, value in host.unet.state_dict().items():
        name = ldm_unet_key(key, unet_facts["layers_per_block"], up_has_attention)
        tensors[f"model.diffusion_model.{name}"] = value
    for key, value in host.vae.state_dict().items():
        name = ldm_vae_key(key, len(vae_facts["block_out_channels"]))
        is_linear = ".attentions." in key and value.ndim == 2
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if is_linear else value
    return tensors


def write_folder(
    folder: Path,
    host: DiffusersHost,
    scheduler: Mapping[str, Any] | None = None,
    weights: str = ".safetensors",
) -> Path:
    """A diffusers folder; `weights` is the end of the weight files' names, e.g. `.fp16.safetensors` or
    `.bin`.
    """
    for part, model in (("unet", host.unet), ("vae", host.vae)):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(dict(model.config), default=list))
        file = folder / part / f"diffusion_pytorch_model{weights}"
        tensors = {key: value.half() if ".fp16" in weights else value for key, value in model.state_dict().items()}
        if weights.endswith(".bin"):
            torch.save(tensors, file)
        else:
            safetensors.torch.save_file(tensors, file)
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder
