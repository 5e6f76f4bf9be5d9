"""What our networks are made from, read from diffusers' configurations; all others than SD's layouts are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ..errors import BaseModelMismatchError, one_line
from ..lora.metadata import BaseLayout
from .sd_configs import NORM_KEY, PADDING_KEY, SD_SCALING_FACTOR, SELF_ATTENTION_KEY, Config

_MOST_WIDTH, _MOST_LEVELS, _MOST_LAYERS = 16384, 8, 16
"""Far beyond any such model: a damaged number is told, and not built."""
# diffusers' defaults for what we build one way only. A configuration may leave them out.
_UNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "encoder_hid_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
}
_VAE_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "out_channels": (3,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """What tells one of our UNets from another. Tuples have one entry a level, the image side first."""

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    attention_levels: tuple[bool, ...]
    """Levels with a transformer after each residual block; the middle always has one."""
    heads: tuple[int, ...]
    """Attention heads."""
    context_dim: int
    linear_projection: bool
    """Linear layers around a transformer (SD 2.x), else 1x1 convolutions (SD 1.x)."""
    norm_groups: int
    norm_eps: float
    local_norm: bool
    """The embedded base's norms, without statistics."""
    self_attention: bool
    """Not in the embedded base."""
    repeated_borders: bool
    """In the embedded base, instead of padding with zeros."""

    @staticmethod
    def from_diffusers(config: Config, name: str) -> UnetConfig:
        """Read a diffusers UNet's configuration. Raises BaseModelMismatchError, naming `name`, for another kind."""
        _refuse_other_settings(name, config, _UNET_FIXED)
        down = _kinds(name, config, "down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D"))
        up = _kinds(name, config, "up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D"))
        attention = tuple(kind.startswith("CrossAttn") for kind in down)
        if attention != tuple(kind.startswith("CrossAttn") for kind in reversed(up)):
            raise _other(name, "up_block_types", up, "attention at the same levels as on the way down")
        if any(attention):
            _refuse_other_settings(name, config, {"only_cross_attention": (False,)})
        widths = _widths(name, config)
        heads = _heads(name, config, widths)
        return UnetConfig(
            in_channels=_whole(name, "in_channels", config.get("in_channels")),
            out_channels=_whole(name, "out_channels", config.get("out_channels")),
            block_out_channels=widths,
            layers_per_block=_whole(name, "layers_per_block", config.get("layers_per_block"), _MOST_LAYERS),
            attention_levels=attention,
            heads=heads,
            context_dim=_whole(name, "cross_attention_dim", config.get("cross_attention_dim")),
            linear_projection=_flag(name, config, "use_linear_projection", default=False),
            norm_groups=_groups(name, config, widths),
            norm_eps=_positive(name, config, "norm_eps", 1e-5),
            local_norm=config.get(NORM_KEY) == "affine",
            self_attention=config.get(SELF_ATTENTION_KEY) != "none",
            repeated_borders=config.get(PADDING_KEY) == "replicate",
        )


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What tells one of our autoencoders from another. Tuples have one entry a level, the image side first."""

    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    mid_attention: bool
    norm_groups: int
    local_norm: bool
    repeated_borders: bool
    scaling_factor: float
    shift_factor: float

    @property
    def sees_all(self) -> bool:
        """What becomes of a place depends on all others, however far away: tiles that overlap are not exact."""
        return not self.local_norm or self.mid_attention

    @staticmethod
    def from_diffusers(config: Config, name: str) -> VaeConfig:
        """Read a diffusers AutoencoderKL's configuration. Raises BaseModelMismatchError for another kind."""
        _refuse_other_settings(name, config, _VAE_FIXED)
        _kinds(name, config, "down_block_types", ("DownEncoderBlock2D",))
        _kinds(name, config, "up_block_types", ("UpDecoderBlock2D",))
        widths = _widths(name, config)
        shift = config.get("shift_factor") or 0.0
        if not _is_number(shift):
            raise _other(name, "shift_factor", shift, "a number")
        return VaeConfig(
            latent_channels=_whole(name, "latent_channels", config.get("latent_channels")),
            block_out_channels=widths,
            layers_per_block=_whole(name, "layers_per_block", config.get("layers_per_block"), _MOST_LAYERS),
            mid_attention=_flag(name, config, "mid_block_add_attention", default=True),
            norm_groups=_groups(name, config, widths),
            local_norm=config.get(NORM_KEY) == "affine",
            repeated_borders=config.get(PADDING_KEY) == "replicate",
            scaling_factor=_positive(name, config, "scaling_factor", SD_SCALING_FACTOR),
            shift_factor=float(shift),
        )


def base_layout(unet: UnetConfig, vae: VaeConfig, prediction_type: str) -> BaseLayout:
    """What a LoRA must have been trained on to fit these networks."""
    return BaseLayout(
        context_dim=unet.context_dim,
        in_channels=unet.in_channels,
        out_channels=unet.out_channels,
        latent_channels=vae.latent_channels,
        latent_factor=2 ** (len(vae.block_out_channels) - 1),
        block_out_channels=unet.block_out_channels,
        prediction_type=prediction_type,  # pyright: ignore[reportArgumentType]
    )


def _refuse_other_settings(name: str, config: Config, fixed: Mapping[str, tuple[Any, ...]]) -> None:
    for key, allowed in fixed.items():
        if config.get(key, allowed[0]) not in allowed:
            raise _other(name, key, config[key], str(allowed[0]))


def _kinds(name: str, config: Config, key: str, known: tuple[str, ...]) -> list[str]:
    """The kind of block of each level."""
    kinds: Any = config.get(key)
    is_list = isinstance(kinds, list | tuple) and all(isinstance(kind, str) for kind in cast("list[Any]", kinds))
    if not is_list or len(kinds) != len(_widths(name, config)) or not set(kinds) <= set(known):
        raise _other(name, key, kinds, f"one of {', '.join(known)} for each level")
    return list(kinds)


def _widths(name: str, config: Config) -> tuple[int, ...]:
    widths: Any = config.get("block_out_channels")
    if not isinstance(widths, list | tuple) or not 0 < len(cast("list[Any]", widths)) <= _MOST_LEVELS:
        raise _other(name, "block_out_channels", widths, "a list of widths")
    return tuple(_whole(name, "block_out_channels", width) for width in cast("Any", widths))


def _heads(name: str, config: Config, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Of each level. diffusers names their number `attention_head_dim`, by an old mistake."""
    key = "attention_head_dim"
    stated: Any = config.get(key, 8)
    listed = list(stated) if isinstance(stated, list | tuple) else [stated] * len(widths)
    heads = tuple(_whole(name, key, number) for number in listed)
    if len(heads) != len(widths) or any(width % number for width, number in zip(widths, heads, strict=True)):
        raise _other(name, key, stated, f"numbers of heads that divide the levels' {widths}")
    return heads


def _groups(name: str, config: Config, widths: tuple[int, ...]) -> int:
    key = "norm_num_groups"
    groups = _whole(name, key, config.get(key, 32))
    if config.get(NORM_KEY) != "affine" and any(width % groups for width in widths):
        raise _other(name, key, groups, f"a number that divides the levels' {widths}")
    return groups


def _whole(name: str, key: str, value: object, most: int = _MOST_WIDTH) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise _other(name, key, value, f"a whole number from 1 to {most}")
    return value


def _flag(name: str, config: Config, key: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise _other(name, key, value, "true or false")
    return value


def _positive(name: str, config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if not _is_number(value) or value <= 0:
        raise _other(name, key, value, "a number above 0")
    return float(value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(cast("float", value)) < 1e30  # NaN is not below it


def _other(name: str, key: str, found: object, expected: str) -> BaseModelMismatchError:
    return BaseModelMismatchError(
        f"'{name}' is no model that DFOSD runs on its own: {key} is {one_line(repr(found), 80)}, expected {expected}. "
        "Give SD 2.1-base."
    )
