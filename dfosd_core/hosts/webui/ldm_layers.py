"""Networks in LDM names, as the WebUIs hold them: what they are, and their layers under LoRA names."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import BaseModelMismatchError
from ...lora.names import UNET_PREFIX, kohya_name, kohya_table, ldm_unet_key, ldm_vae_table
from ...networks.ldm_file import unet_config_of
from ...networks.unet import build_unet

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
