"""Single-file SD checkpoints (LDM names): what they are, from their tensors' shapes, and their weights in
diffusers names.

What a file cannot tell: SD 2.1-base (predicts noise) and SD 2.1 (768 px, predicts v) share every shape. We
read, in this order, the `modelspec.prediction_type` entry, a `.yaml` of the same name beside the file, and
the weights themselves: one bias of the published v models' last transformer has a standard deviation above
0.09, those of the noise models below (ComfyUI tells them apart by it). A fine-tuned model may break that
rule; then put the original's `.yaml` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from ..errors import BaseModelMismatchError, one_line
from ..lora.names import ldm_unet_key, ldm_vae_key
from ..tensor_files import LDM_UNET, LDM_VAE, kind_of
from .checkpoint import Checkpoint, Part, Tensors
from .sd_configs import Config, unet_config, vae_config

V_BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_BIAS_STD = 0.09
_MOST_BLOCKS = 100


def read_single_file(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> Checkpoint:
    """Understand the tensors of an LDM checkpoint; raises BaseModelMismatchError when DFOSD cannot use it."""
    unet = {key.removeprefix(LDM_UNET): value for key, value in tensors.items() if key.startswith(LDM_UNET)}
    vae = {key.removeprefix(LDM_VAE): value for key, value in tensors.items() if key.startswith(LDM_VAE)}
    try:
        _refuse_what_we_cannot_run(path.name, unet, vae, kind_of(tensors) == "LoRA")
        unet_facts, vae_facts = unet_config_of(unet), _vae_config(vae)
    except (KeyError, IndexError) as error:
        what = f"the tensor {one_line(str(error), 100)} is missing or of another shape"
        raise BaseModelMismatchError(_damaged(path.name, what)) from error
    up_has_attention = [kind.startswith("CrossAttn") for kind in unet_facts["up_block_types"]]
    unet_key = partial(ldm_unet_key, layers_per_block=unet_facts["layers_per_block"], up_has_attention=up_has_attention)
    vae_key = partial(ldm_vae_key, levels=len(vae_facts["block_out_channels"]))
    return Checkpoint(
        path.name,
        Part(unet_facts, partial(_pick, path.name, unet, unet_key)),
        Part(vae_facts, partial(_pick, path.name, vae, vae_key)),
        _prediction_type(path, unet, metadata),
    )


def _refuse_what_we_cannot_run(name: str, unet: Tensors, vae: Tensors, is_lora: bool) -> None:
    if is_lora:
        raise BaseModelMismatchError(f"'{name}' is a LoRA, not a base model. Give SD 2.1-base as the base.")
    for part, found in (("UNet", unet), ("VAE", vae)):
        if not found:
            raise BaseModelMismatchError(
                f"'{name}' holds no {part} under Stable Diffusion's names. Give a full SD 2.1-base checkpoint."
            )
    if any(key.startswith("label_emb.") for key in unet):
        raise BaseModelMismatchError(
            f"'{name}' is an SDXL or unCLIP checkpoint (it wants more than a text embedding). Give SD 2.1-base."
        )
    inputs, latents = unet["input_blocks.0.0.weight"].shape[1], vae["decoder.conv_in.weight"].shape[1]
    if latents != 4 or inputs != latents:
        raise BaseModelMismatchError(
            f"'{name}' is an inpainting, depth or other special checkpoint (UNet input {inputs}, "
            f"latent {latents} channels, expected 4 and 4). Give SD 2.1-base."
        )


def unet_config_of(unet: Tensors) -> Config:
    """The configuration of a UNet, from its tensors' LDM names and shapes; KeyError where one is missing.

    Levels are read block by block: `input_blocks.N.0.op` ends a level, `.1.proj_in` is a transformer.
    """
    widths: list[int] = []
    attention: list[bool] = []
    layers = 0
    for n in range(1, _count(unet, "input_blocks.")):
        if f"input_blocks.{n}.0.op.weight" in unet:
            layers = 0
            continue
        layers += 1
        if layers == 1:
            widths.append(unet[f"input_blocks.{n}.0.out_layers.3.weight"].shape[0])
            attention.append(f"input_blocks.{n}.1.proj_in.weight" in unet)
    transformer = "middle_block.1"
    return unet_config(
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        attention_levels=tuple(attention),
        context_dim=unet[f"{transformer}.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        in_channels=unet["input_blocks.0.0.weight"].shape[1],
        out_channels=unet["out.2.weight"].shape[0],
        linear_projection=unet[f"{transformer}.proj_in.weight"].ndim == 2,
    )


def _vae_config(vae: Tensors) -> Config:
    levels, layers = _count(vae, "encoder.down."), _count(vae, "encoder.down.0.block.")
    return vae_config(
        block_out_channels=tuple(vae[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)),
        layers_per_block=layers,
        latent_channels=vae["decoder.conv_in.weight"].shape[1],
    )


def _count(tensors: Tensors, start: str) -> int:
    """How many blocks there are, from the numbers behind `start`; IndexError for none, or for more than any model."""
    pattern = re.compile(re.escape(start) + r"(\d{1,9})\.")
    count = 1 + max((int(found[1]) for key in tensors if (found := pattern.match(key))), default=-1)
    if not 0 < count <= _MOST_BLOCKS:
        raise IndexError(f"{start}{count - 1}")
    return count


def _pick(name: str, ldm: Tensors, ldm_key: Callable[[str], str], expected: Tensors) -> Tensors:
    """The tensors `expected`, from their LDM names; total, so that nothing stays at a random or missing value."""
    missing = [ldm_key(key) for key in expected if ldm_key(key) not in ldm]
    if missing:
        raise BaseModelMismatchError(_damaged(name, f"{len(missing)} tensors are missing, first {missing[0]}"))
    found = {key: ldm[ldm_key(key)] for key in expected}
    for key, value in expected.items():
        # LDM's VAE attention is 1x1 convolutions where diffusers has linear layers: same numbers, same order.
        if found[key].shape != value.shape and found[key].squeeze().shape == value.squeeze().shape:
            found[key] = found[key].reshape(value.shape)
        if found[key].shape != value.shape:
            shapes = f"{ldm_key(key)} is {tuple(found[key].shape)}, expected {tuple(value.shape)}"
            raise BaseModelMismatchError(_damaged(name, shapes))
    return found


def _damaged(name: str, what: str) -> str:
    return f"'{name}' is no complete SD 1.x or 2.x checkpoint: {what}. Get the file again, or give SD 2.1-base."


def _prediction_type(path: Path, unet: Tensors, metadata: Mapping[str, str]) -> str:
    stated = metadata.get("modelspec.prediction_type")
    if stated in ("v", "epsilon"):
        return "v_prediction" if stated == "v" else "epsilon"
    yaml = path.with_suffix(".yaml")
    if yaml.is_file():
        # One word of a file of any origin: a pattern is enough, and needs no YAML library.
        is_v = re.search(r"^\s*parameterization:\s*[\"']?v[\"']?\s*(#.*)?$", yaml.read_text("utf-8", "replace"), re.M)
        return "v_prediction" if is_v else "epsilon"
    if unet["middle_block.1.proj_in.weight"].ndim == 2 and V_BIAS in unet:
        return "v_prediction" if torch.std(unet[V_BIAS].float()).item() > V_BIAS_STD else "epsilon"
    return "epsilon"
