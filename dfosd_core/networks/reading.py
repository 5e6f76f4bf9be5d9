"""Reading a base model from disk: a diffusers folder or a single file, its UNet and VAE only, never from a network."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..errors import BaseModelMismatchError, one_line
from ..files import reason_of
from ..lora.metadata import BaseLayout
from ..lora.names import current_vae_key
from ..tensor_files import TensorFile, TensorFileError, read_tensors
from .checkpoint import Checkpoint, Part, Tensors, fill
from .config import base_layout
from .ldm_file import read_single_file
from .sd_configs import Config
from .text_encoder import empty_prompt, is_text_encoder_key
from .unet import Unet, build_unet
from .vae import Vae, build_vae

WEIGHT_FILES = tuple(
    f"diffusion_pytorch_model{variant}.{kind}" for kind in ("safetensors", "bin") for variant in ("", ".fp16")
)

TEXT_ENCODER_FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin")


class Base(NamedTuple):
    """A base model in memory, in evaluation mode, without gradients."""

    unet: Unet
    vae: Vae
    layout: BaseLayout


def read_base(path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Base:
    """Our networks with the weights of a diffusers folder (`unet/`, `vae/`), a `.safetensors` or a `.ckpt` file.

    Raises BaseModelMismatchError, in one line, when the file is missing, damaged, unsafe or no SD 1.x or 2.x.
    """
    found = read_checkpoint(path)
    unet, vae = build_unet(found.unet.config, found.name), build_vae(found.vae.config, found.name)  # before any weight
    unet, vae = fill(unet, found.unet, dtype, device), fill(vae, found.vae, dtype, device)
    return Base(unet, vae, base_layout(unet.config, vae.config, found.prediction_type))


def read_checkpoint(path: Path | str) -> Checkpoint:
    """What `read_base` makes its networks from. Raises BaseModelMismatchError as it does."""
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise BaseModelMismatchError(f"There is no base model '{path}'. Give a diffusers folder or a checkpoint file.")
    return read_single_file(path, *_read_tensors(path))


def read_empty_prompt(path: Path | str, width: int) -> Tensor:
    """(1, 77, width) float32: what the base's own text encoder makes of the text "".

    Raises BaseModelMismatchError when there is no such encoder, or one of another width.
    """
    path = Path(path)
    files = [path / "text_encoder" / name for name in TEXT_ENCODER_FILES] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    tensors = _read_tensors(file).tensors if file else {}
    embeds = empty_prompt({key: value for key, value in tensors.items() if is_text_encoder_key(key)}, path.name)
    if embeds.shape[-1] != width:
        raise BaseModelMismatchError(
            f"'{path.name}' has a text encoder of width {embeds.shape[-1]}, expected {width}. Give SD 2.1-base."
        )
    return embeds


def _read_folder(folder: Path) -> Checkpoint:
    unet, vae = _config(folder, "unet"), _config(folder, "vae")
    _refuse_other_unets(folder.name, unet, vae)
    return Checkpoint(
        folder.name,
        Part(unet, partial(_folder_weights, folder, "unet")),
        Part(vae, partial(_folder_weights, folder, "vae")),
        _folder_prediction_type(folder),
    )


def _config(folder: Path, part: str) -> Config:
    file = folder / part / "config.json"
    if not file.is_file():
        raise BaseModelMismatchError(
            f"'{folder}' has no {part}/config.json. "
            "Give a diffusers folder with `unet` and `vae`, or a checkpoint file."
        )
    return _json(file)


def _json(file: Path) -> Config:
    try:
        config: object = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BaseModelMismatchError(f"'{file}' cannot be read: {reason_of(error)}.") from error
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error), 100)
        raise BaseModelMismatchError(f"'{file}' is not readable JSON ({reason}). Get the file again.") from error
    if not isinstance(config, dict):
        found = type(config).__name__
        raise BaseModelMismatchError(f"'{file}' holds a {found}, expected settings with names. Get the file again.")
    return cast("Config", config)


def _refuse_other_unets(name: str, unet: Config, vae: Config) -> None:
    more = [key for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type") if unet.get(key)]
    if more:
        raise BaseModelMismatchError(
            f"'{name}' is an SDXL, unCLIP or other model that wants more than a text embedding "
            f"({more[0]}: {one_line(str(unet[more[0]]), 80)}). Give SD 2.1-base."
        )
    inputs, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if inputs != latents:
        raise BaseModelMismatchError(
            f"'{name}' is an inpainting, depth or other special model (UNet input {one_line(str(inputs), 40)}, "
            f"latent {one_line(str(latents), 40)} channels). Give SD 2.1-base."
        )


def _folder_prediction_type(folder: Path) -> str:
    """From the scheduler's configuration; a folder without one is taken to predict noise, as the small base does."""
    file = folder / "scheduler" / "scheduler_config.json"
    stated: object = _json(file).get("prediction_type", "epsilon") if file.exists() else "epsilon"
    if stated not in ("epsilon", "v_prediction"):
        shown = one_line(str(stated), 80)
        raise BaseModelMismatchError(f"'{folder.name}' predicts '{shown}', expected epsilon or v_prediction.")
    return str(stated)


def _folder_weights(folder: Path, part: str, expected: Tensors) -> Tensors:
    file = next((folder / part / name for name in WEIGHT_FILES if (folder / part / name).is_file()), None)
    if file is None:
        raise BaseModelMismatchError(f"'{folder / part}' has no weights. Expected {WEIGHT_FILES[0]}.")
    tensors: Tensors = _read_tensors(file).tensors
    if part == "vae":
        tensors = {current_vae_key(key): value for key, value in tensors.items()}
    missing = [key for key, value in expected.items() if key not in tensors or tensors[key].shape != value.shape]
    if missing:
        raise BaseModelMismatchError(
            f"'{folder.name}': {len(missing)} of {len(expected)} weights are missing or of another shape than its "
            f"configuration says, first {missing[0]}. Get the files again."
        )
    return {key: tensors[key] for key in expected}


def _read_tensors(path: Path) -> TensorFile:
    try:
        return read_tensors(path)
    except TensorFileError as error:
        raise BaseModelMismatchError(str(error)) from error
