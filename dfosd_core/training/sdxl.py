"""D3SR's discriminator (the paper's later version): the down path and mid block of SDXL's UNet.

It sees the latents of the generator's own autoencoder (SD 2.1's), although SDXL has another; its LoRA takes that up.
Reading SDXL's half UNet from disk lives here too: the base's reader refuses SDXL, which cannot be a DFOSD base.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..errors import ConfigError
from ..lora.names import ldm_unet_key
from ..networks.sd_configs import Config
from ..tensor_files import LDM_UNET, TensorFileError, read_tensors
from .base import build_unet
from .heads import HeadKind
from .nad import Nad

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

SDXL_UNET: Config = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    # Named "dim" by an old mistake of diffusers: it is the number of heads.
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""The layout of SDXL 1.0-base's UNet."""
TIME_IDS = (1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0)
"""SDXL's size conditions: original size, crop corner, target size. SDXL's own resolution, so that it expects sharp
images; the authors' choice is not public."""
TOKENS = 77
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
_LDM_ADDED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


class SdxlDiscriminator(Nad):
    """A `Nad` on SDXL's UNet: text and pooled text are zeros, the size conditions `TIME_IDS`; none of them trains.

    unet: SDXL's; its up path may be missing. Raises ConfigError for another kind of UNet.
    """

    PARTS = (*Nad.PARTS, "add_embedding")
    added: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        rank: int = 16,
        lora_alpha: float = 16.0,
        head: HeadKind = "pointwise",
        rng: torch.Generator,
    ) -> None:
        source, facts = cast("Any", unet), cast("Any", unet).config
        if facts.addition_embed_type != "text_time":
            raise ConfigError(
                "discriminator.base: expected SDXL's UNet, which takes sizes and a pooled text "
                f"(addition_embed_type text_time), found {facts.addition_embed_type}. Give SDXL 1.0-base."
            )
        device = source.conv_in.weight.device
        text = torch.zeros(1, TOKENS, facts.cross_attention_dim, device=device)
        super().__init__(unet, prompt_embeds=text, rank=rank, lora_alpha=lora_alpha, head=head, rng=rng)
        self.prompt_embeds.requires_grad_(False)
        sizes = source.add_time_proj(torch.tensor(TIME_IDS)).flatten()
        pooled = torch.zeros(facts.projection_class_embeddings_input_dim - sizes.numel())
        self.register_buffer("added", torch.cat((pooled, sizes)).unsqueeze(0).to(device), persistent=False)

    def embedding(self, t_noise: Tensor, dtype: torch.dtype) -> Tensor:
        """Time embedding plus SDXL's added one, as its UNet has it."""
        return super().embedding(t_noise, dtype) + cast("Any", self.backbone)["add_embedding"](self.added.to(dtype))


def read_sdxl_unet(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """SDXL's UNet without its up path, frozen, from a diffusers folder (`unet/`) or a `.safetensors` file.

    dtype: as in `base.hold_in`. Raises ConfigError, in one line, for anything else. Only the half that is used is
    converted: 5 GB in float32.
    """
    folder = path / "unet"
    file = next((f for f in map(folder.joinpath, _WEIGHTS) if f.is_file()), None) if path.is_dir() else path
    if file is None or file.suffix != ".safetensors" or not file.is_file():
        raise ConfigError(
            f"discriminator.base: expected SDXL 1.0-base as a diffusers folder with `unet/{_WEIGHTS[0]}` or as a "
            f"checkpoint file .safetensors, found '{path}'."
        )
    unet = cast("Any", build_unet(_config(folder / "config.json") if path.is_dir() else SDXL_UNET))
    for unused in ("up_blocks", "conv_norm_out", "conv_out"):
        delattr(unet, unused)
    tensors = _load(file)
    name_of: Callable[[str], str] = str if path.is_dir() else _ldm_name
    wanted = cast("dict[str, Tensor]", unet.state_dict())
    missing = [key for key, value in wanted.items() if getattr(tensors.get(name_of(key)), "shape", None) != value.shape]
    if missing:
        raise ConfigError(
            f"discriminator.base: {len(missing)} of {len(wanted)} weights are missing in '{file}' or of another shape, "
            f"first {name_of(missing[0])}. Give SDXL 1.0-base."
        )
    placed = {
        key: tensors[name_of(key)].to(device, dtype if value.ndim > 1 else torch.float32, copy=True)
        for key, value in wanted.items()
    }
    unet.load_state_dict(placed, assign=True)
    return unet.eval().requires_grad_(False)


def _config(file: Path) -> Config:
    try:
        return cast("Config", json.loads(file.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"discriminator.base: '{file}' is missing or no JSON. Give SDXL 1.0-base.") from error


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(file).tensors
    except TensorFileError as error:
        raise ConfigError(f"discriminator.base: {error}") from error


def _ldm_name(key: str) -> str:
    for ours, theirs in _LDM_ADDED.items():
        if key.startswith(ours + "."):
            return LDM_UNET + theirs + key.removeprefix(ours)
    return LDM_UNET + ldm_unet_key(key, SDXL_UNET["layers_per_block"], ())
