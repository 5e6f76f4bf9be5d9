"""The base model in training: diffusers' networks of the layouts that our own networks run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ..lora.metadata import BaseLayout
from ..networks.borders import repeat_borders
from ..networks.checkpoint import fill
from ..networks.config import UnetConfig, VaeConfig, base_layout
from ..networks.layers import Downsample
from ..networks.norms import ChannelAffine
from ..networks.reading import read_checkpoint
from ..networks.sd_configs import NORM_KEY, PADDING_KEY, SELF_ATTENTION_KEY
from ..networks.unet import Unet
from ..networks.unet import build_unet as build_own_unet
from ..networks.vae import Vae
from ..networks.vae import build_vae as build_own_vae

if TYPE_CHECKING:  # diffusers takes seconds to import: only who builds a network waits for it
    from diffusers import AutoencoderKL, UNet2DConditionModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TrainingBase(NamedTuple):
    """A base model in memory, in evaluation mode, without gradients."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    layout: BaseLayout


def read_training_base(
    path: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TrainingBase:
    """As `networks.reading.read_base`, with diffusers' networks. dtype: see `hold_in`."""
    found = read_checkpoint(path)
    layout = _layout(found.unet.config, found.vae.config, found.prediction_type, found.name)
    unet = cast("nn.Module", build_unet(found.unet.config))
    vae = cast("nn.Module", build_vae(found.vae.config))
    # Made smaller before it goes to the device: a card may not have room for float32.
    first = device if dtype == torch.float32 else "cpu"
    filled = (fill(network, part, torch.float32, first) for network, part in ((unet, found.unet), (vae, found.vae)))
    unet, vae = (hold_in(network, dtype).to(device) for network in filled)
    return TrainingBase(cast("UNet2DConditionModel", unet), cast("AutoencoderKL", vae), layout)


def hold_in(network: ModuleT, dtype: torch.dtype) -> ModuleT:
    """Convert the weights of frozen convolutions and linear layers in place; norms and biases stay as they are.

    Under autocast to the same dtype no result changes by a bit: it would round these weights in each call.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)
    return network


def enable_checkpointing(network: UNet2DConditionModel | AutoencoderKL) -> None:
    """Compute activations again in the backward pass: of the UNet's layers, and of the decoder's."""
    from diffusers import AutoencoderKL

    cast("Any", network).enable_gradient_checkpointing(_checkpointed)
    if isinstance(network, AutoencoderKL):
        # The decoder has it computed again as a whole; its layers would be once more inside that.
        cast("Any", network).decoder.mid_block.gradient_checkpointing = False


def _checkpointed(module: nn.Module, *args: Any) -> Any:
    from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D

    if isinstance(module, UpDecoderBlock2D):
        # Layer by layer, since those at full size are most of the decoder's memory.
        hidden = args[0]
        for layer in (*module.resnets, *(module.upsamplers or ())):
            hidden = _layer_checkpointed(layer, hidden)
        return hidden
    return _layer_checkpointed(module, *args)


def _layer_checkpointed(layer: Any, *args: Any) -> Any:
    from diffusers.models.resnet import ResnetBlock2D

    if isinstance(layer, ResnetBlock2D) and len(args) == 1:
        args = (*args, None)  # a decoder has no time embedding
    # Nothing is drawn inside, so no generator's state is to be kept.
    return torch.utils.checkpoint.checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False)


def build_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A UNet on the meta device: shapes and no weights."""
    from diffusers import UNet2DConditionModel

    return cast("UNet2DConditionModel", _build(UNet2DConditionModel, config))


def build_vae(config: Mapping[str, Any]) -> AutoencoderKL:
    """An autoencoder on the meta device: shapes and no weights."""
    from diffusers import AutoencoderKL

    return cast("AutoencoderKL", _build(AutoencoderKL, config))


def config_of(network: UNet2DConditionModel | AutoencoderKL) -> dict[str, Any]:
    """The configuration that our own network of the same layout is built from."""
    layers = list(cast("nn.Module", network).modules())
    config = dict(cast("Any", network).config)
    if any(isinstance(layer, ChannelAffine) for layer in layers):
        config[NORM_KEY] = "affine"
    if any(isinstance(layer, NoAttention) for layer in layers):
        config[SELF_ATTENTION_KEY] = "none"
    if any(isinstance(layer, nn.Conv2d) and layer.padding_mode == "replicate" for layer in layers):
        config[PADDING_KEY] = "replicate"
    return config


def layout_of(unet: UNet2DConditionModel, vae: AutoencoderKL, prediction_type: str) -> BaseLayout:
    """What a LoRA must have been trained on to fit these models."""
    return _layout(config_of(unet), config_of(vae), prediction_type, "the base")


def own_networks(unet: UNet2DConditionModel, vae: AutoencoderKL) -> tuple[Unet, Vae]:
    """Our networks over the very same parameters, for inference during training.

    Only of a base that is held in another number format than float32, norms and biases are copied: in that format.
    """
    ours = build_own_unet(config_of(unet), "the base"), build_own_vae(config_of(vae), "the base")
    for network, theirs in zip(ours, (unet, vae), strict=True):
        # Frozen first: parameters that are taken over get the flag of those they replace.
        network.eval().requires_grad_(False)
        held = cast("nn.Module", theirs).state_dict(keep_vars=True)
        dtype = next(parameter.dtype for parameter in held.values() if parameter.ndim > 1)
        network.load_state_dict({key: _in(parameter, dtype) for key, parameter in held.items()}, assign=True)
    return ours


def _in(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    return parameter if parameter.dtype == dtype else nn.Parameter(parameter.to(dtype), requires_grad=False)


class NoAttention(nn.Module):
    """Stands in for a self-attention that was taken out: adds nothing to its input and costs nothing."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """A zero that fits any shape, in x's dtype."""
        return x.new_zeros(())


def remove_self_attention(module: nn.Module) -> None:
    """Replace every self-attention (`attn1`) below `module` by NoAttention."""
    for block in list(module.modules()):
        if isinstance(getattr(block, "attn1", None), nn.Module):
            block.attn1 = NoAttention()


def replace_group_norms(module: nn.Module) -> int:
    """Replace every GroupNorm below `module` by a ChannelAffine of the same state-dict names; return how many."""
    replaced = 0
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, ChannelAffine(child.num_channels))
            replaced += 1
        else:
            replaced += replace_group_norms(child)
    return replaced


def repeat_all_borders(module: nn.Module) -> None:
    """`repeat_borders` for diffusers' networks, whose encoder steps down by a layer that pads with zeros itself."""
    for level in getattr(getattr(module, "encoder", None), "down_blocks", ()):
        for i, step in enumerate(level.downsamplers or ()):
            own = Downsample(step.channels, padding=0)
            own.conv = step.conv
            level.downsamplers[i] = own
    repeat_borders(module)


def _build(kind: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    ours = (NORM_KEY, PADDING_KEY, SELF_ATTENTION_KEY)
    plain = {key: value for key, value in config.items() if key not in ours}
    with torch.device("meta"):
        model = cast("Any", kind).from_config(plain)
        if config.get(NORM_KEY) == "affine":
            replace_group_norms(model)
        if config.get(SELF_ATTENTION_KEY) == "none":
            remove_self_attention(model)
        if config.get(PADDING_KEY) == "replicate":
            repeat_all_borders(model)
    return model.eval().requires_grad_(False)


def _layout(unet: dict[str, Any], vae: dict[str, Any], prediction_type: str, name: str) -> BaseLayout:
    return base_layout(UnetConfig.from_diffusers(unet, name), VaeConfig.from_diffusers(vae, name), prediction_type)
