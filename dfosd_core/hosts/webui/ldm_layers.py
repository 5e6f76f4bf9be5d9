"""Networks in LDM names, as the WebUIs and their files hold them: what they are, and their layers under LoRA names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from ...errors import BaseModelMismatchError
from ...lora.names import UNET_PREFIX, kohya_name, kohya_table, ldm_unet_key, ldm_vae_table
from ...networks.build import build_unet
from ...networks.ldm_file import UNET, unet_config_of

CONTEXT_KEY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LARGEST_HEADER = 100_000_000
NOT_SD = "The loaded checkpoint is no Stable Diffusion 1.x or 2.x. Choose SD 2.1-base, or the embedded model."


def unet_facts(unet: Any) -> dict[str, Any]:
    """`BaseLayout`'s fields that an LDM UNet tells by itself. Raises BaseModelMismatchError for other models."""
    try:
        transformer = unet.get_submodule("input_blocks.1.1.transformer_blocks.0")
        if getattr(unet, "num_classes", None) is not None:
            raise AttributeError("num_classes")
        return {
            "context_dim": int(transformer.attn2.to_k.weight.shape[1]),
            "in_channels": int(unet.in_channels),
            "out_channels": int(unet.out_channels),
            "block_out_channels": tuple(int(unet.model_channels * mult) for mult in unet.channel_mult),
        }
    except AttributeError as error:
        raise BaseModelMismatchError(NOT_SD) from error


def unet_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """kohya name -> layer, for every convolution and linear layer of an SD UNet with LDM names, of any depth.

    Raises BaseModelMismatchError for another UNet.
    """
    try:
        config = unet_config_of(unet.state_dict())
    except KeyError as error:
        raise BaseModelMismatchError(NOT_SD) from error
    up_has_attention = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]
    ours = kohya_table(build_unet(config, "the loaded checkpoint"), UNET_PREFIX).values()
    return {
        kohya_name(name, UNET_PREFIX): unet.get_submodule(
            ldm_unet_key(f"{name}.weight", config["layers_per_block"], up_has_attention).removesuffix(".weight")
        )
        for name in ours
    }


def vae_layers(vae: nn.Module) -> dict[str, nn.Module]:
    """kohya name -> layer, for every convolution and linear layer of an SD autoencoder with LDM names."""
    return {kohya: vae.get_submodule(name) for kohya, name in ldm_vae_table(list(vae.state_dict())).items()}


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file holds a UNet in LDM names; by its header alone, False where it cannot be read."""
    return any(key.startswith(UNET) for key in _header(path))


def context_dim_of(path: Path) -> int | None:
    """Width of the text condition of a checkpoint file, by its header alone; None where that does not tell."""
    shape = cast("list[int]", _header(path).get(CONTEXT_KEY, {}).get("shape", []))
    return shape[1] if len(shape) == 2 else None


def _header(path: Path) -> dict[str, dict[str, Any]]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < LARGEST_HEADER else {}
    except (OSError, ValueError):
        return {}
    return cast("dict[str, dict[str, Any]]", header) if isinstance(header, dict) else {}
