"""The layers of a network in LDM names, as the WebUIs hold it, under the names a LoRA calls them by."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import BaseModelMismatchError
from ...lora.names import UNET_PREFIX, kohya_name, kohya_table, ldm_unet_key, ldm_vae_table
from ...networks.sd_configs import unet_config
from ...networks.unet import build_unet

ATTENTION_LEVELS = (True, True, True, False)
"""Of SD 1.x and 2.x: no transformers at the deepest level."""
LAYERS_PER_BLOCK = 2


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
        raise BaseModelMismatchError(
            "The loaded checkpoint is no Stable Diffusion 1.x or 2.x. Choose SD 2.1-base, or the embedded model."
        ) from error


def unet_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """kohya name -> layer, for every convolution and linear layer of an SD UNet with LDM names."""
    facts = unet_facts(unet)
    linear = isinstance(unet.get_submodule("input_blocks.1.1.proj_in"), nn.Linear)
    config = unet_config(
        block_out_channels=facts["block_out_channels"],
        context_dim=facts["context_dim"],
        in_channels=facts["in_channels"],
        out_channels=facts["out_channels"],
        linear_projection=linear,
    )
    up_has_attention = ATTENTION_LEVELS[::-1]
    ours = kohya_table(build_unet(config, "the loaded checkpoint"), UNET_PREFIX).values()
    return {
        kohya_name(name, UNET_PREFIX): unet.get_submodule(
            ldm_unet_key(f"{name}.weight", LAYERS_PER_BLOCK, up_has_attention).removesuffix(".weight")
        )
        for name in ours
    }


def vae_layers(vae: nn.Module) -> dict[str, nn.Module]:
    """kohya name -> layer, for every convolution and linear layer of an SD autoencoder with LDM names."""
    return {kohya: vae.get_submodule(name) for kohya, name in ldm_vae_table(list(vae.state_dict())).items()}
