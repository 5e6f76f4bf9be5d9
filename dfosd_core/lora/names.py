"""The one name table: diffusers <-> kohya <-> PEFT for LoRA layers, diffusers -> LDM for checkpoints.

diffusers module names (`down_blocks.0.resnets.0.conv1`) are our own. kohya's names replace the dots by
underscores, which loses information, so the way back exists only for a network at hand (`kohya_table`).
Nothing here reads a tensor's values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import nn

UNET_PREFIX = "lora_unet"
VAE_PREFIX = "lora_vae"

LORA_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
"""The layers DFOSD trains, by the end of their diffusers name (recovered from the paper's complexity table)."""


def is_lora_target(name: str) -> bool:
    """Whether the diffusers module `name` is one of the layers that DFOSD puts a LoRA on."""
    return any(name == target or name.endswith("." + target) for target in LORA_TARGETS)


def lora_target_names(network: nn.Module) -> list[str]:
    """The diffusers names of all LoRA layers (convolutions and linears) of `network`, in module order."""
    layers = ((name, module) for name, module in network.named_modules() if is_lora_target(name))
    return [name for name, module in layers if isinstance(module, nn.Conv2d | nn.Linear)]


def kohya_name(module_name: str, prefix: str = UNET_PREFIX) -> str:
    """`down_blocks.0.attentions.0.proj_in` -> `lora_unet_down_blocks_0_attentions_0_proj_in`."""
    return f"{prefix}_{module_name.replace('.', '_')}"


def kohya_table(network: nn.Module, prefix: str = UNET_PREFIX) -> dict[str, str]:
    """kohya name -> module name, for every convolution and linear layer of `network`."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    table = {kohya_name(name, prefix): name for name in layers}
    assert len(table) == len(layers), "two layers of one network share a kohya name"
    return table


class LoraKey(NamedTuple):
    """A LoRA tensor's name, taken apart."""

    layer: str
    """The kohya name of the layer."""
    part: str
    """`down`, `up`, `alpha`, or a replacement: `set_weight`, `set_bias`."""


_KOHYA = re.compile(r"(lora_(?:unet|vae)_\w+)\.(lora_down\.weight|lora_up\.weight|alpha|set_weight|set_bias)")
_PEFT = re.compile(
    r"(?:base_model\.model\.)?(?:(unet|vae)\.)?(?:base_model\.model\.)?"
    r"([a-z]\w*(?:\.\w+)*?)\.(?:lora_([AB])(?:\.([a-z]\w*))?\.weight|(alpha))"
)
_PARTS = {"lora_down.weight": "down", "lora_up.weight": "up", "A": "down", "B": "up"}
_SUFFIXES = {"down": "lora_down.weight", "up": "lora_up.weight"}


class PeftKey(NamedTuple):
    """A PEFT tensor's name, taken apart."""

    network: str
    """`unet` or `vae` where the name begins with it, else empty."""
    module: str
    """The diffusers name of the layer."""
    part: str
    """`down`, `up` or `alpha`."""
    adapter: str
    """Empty where none is named."""


def parse_peft_key(key: str) -> PeftKey | None:
    """`unet.X.lora_A.weight`, `X.lora_A.weight`, `X.lora_A.default.weight`, `base_model.model.X.lora_A.weight`.

    None for any other name.
    """
    if match := _PEFT.fullmatch(key):
        return PeftKey(match[1] or "", match[2], _PARTS[match[3]] if match[3] else "alpha", match[4] or "")
    return None


def parse_lora_key(key: str) -> LoraKey | None:
    """Take a kohya or PEFT tensor name apart; None when it is neither."""
    if match := _KOHYA.fullmatch(key):
        return LoraKey(match[1], _PARTS.get(match[2], match[2]))
    if peft := parse_peft_key(key):
        return LoraKey(kohya_name(peft.module, VAE_PREFIX if peft.network == "vae" else UNET_PREFIX), peft.part)
    return None


def lora_tensor_name(layer: str, part: str) -> str:
    """The inverse of `parse_lora_key` in kohya's spelling."""
    return f"{layer}.{_SUFFIXES.get(part, part)}"


# --- LDM (single-file checkpoint) names ---

_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_LAST = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
}
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _rename_resnet_part(rest: str) -> str:
    part, _, tail = rest.partition(".")
    return f"{_UNET_RESNET[part]}.{tail}" if part in _UNET_RESNET else rest


def ldm_unet_key(key: str, layers_per_block: int, up_has_attention: Sequence[bool]) -> str:
    """The LDM name of a diffusers UNet parameter: `down_blocks.0.resnets.0.conv1.weight` ->
    `input_blocks.1.0.in_layers.2.weight`.

    `up_has_attention[i]`: whether up block i (deepest first) has transformers; an upsampler's number depends on it.
    """
    for ours, theirs in _UNET_TOP.items():
        if key.startswith(ours + "."):
            rest = key[len(ours) + 1 :]
            return f"{theirs}.{_rename_resnet_part(rest) if '.resnets.' in ours else rest}"
    side, level_text, kind, index_text, rest = key.split(".", 4)
    level, index, per_level = int(level_text), int(index_text), layers_per_block + 1
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0.op.{rest.removeprefix('conv.')}"
        block = f"input_blocks.{1 + level * per_level + index}"
    elif kind == "upsamplers":
        return f"output_blocks.{(level + 1) * per_level - 1}.{2 if up_has_attention[level] else 1}.{rest}"
    else:
        block = f"output_blocks.{level * per_level + index}"
    return f"{block}.0.{_rename_resnet_part(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def ldm_vae_key(key: str, levels: int) -> str:
    """A diffusers AutoencoderKL parameter's LDM name: `decoder.conv_norm_out.bias` -> `decoder.norm_out.bias`."""
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out.")
    key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    # LDM counts the decoder's levels from the image side, diffusers from the latent side.
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    stem, part, tail = key.rsplit(".", 2) if key.count(".") > 1 else ("", *key.split(".", 1))
    return ".".join(filter(None, (stem, _VAE_LAST.get(part, part), tail)))


def ldm_vae_table(ldm_keys: Collection[str]) -> dict[str, str]:
    """kohya name -> LDM name, for every convolution and linear layer of an SD autoencoder given by its LDM keys."""
    levels = 1 + max(int(key.split(".")[2]) for key in ldm_keys if key.startswith("encoder.down."))
    names = ["quant_conv", "post_quant_conv"]
    for side, blocks, sampler in (("encoder", "down_blocks", "downsamplers"), ("decoder", "up_blocks", "upsamplers")):
        names += [f"{side}.conv_in", f"{side}.conv_out"]
        names += [f"{side}.mid_block.attentions.0.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0")]
        resnets = [f"mid_block.resnets.{i}" for i in range(2)]
        resnets += [f"{blocks}.{level}.resnets.{i}" for level in range(levels) for i in range(3)]
        names += [f"{side}.{resnet}.{layer}" for resnet in resnets for layer in ("conv1", "conv2", "conv_shortcut")]
        names += [f"{side}.{blocks}.{level}.{sampler}.0.conv" for level in range(levels)]
    theirs = {name: ldm_vae_key(f"{name}.weight", levels) for name in names}
    # SD's layers are some of these; which ones, the keys say.
    return {
        kohya_name(name, VAE_PREFIX): key.removesuffix(".weight") for name, key in theirs.items() if key in ldm_keys
    }


def current_vae_key(key: str) -> str:
    """A diffusers AutoencoderKL parameter's name in today's spelling.

    The published SD 2.1-base folder still has the names of before 0.18: `...attentions.0.query.weight`.
    """
    if ".attentions." not in key:
        return key
    stem, part, tail = key.rsplit(".", 2)
    return f"{stem}.{_OLD_VAE_ATTENTION.get(part, part)}.{tail}"
