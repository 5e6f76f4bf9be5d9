"""Reading a base model from disk: a diffusers folder or a single file, its UNet and VAE only, never from a
network. Whose networks are filled with the weights is the caller's choice; nothing here needs diffusers.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import BaseModelMismatchError
from ..lora.names import current_vae_key
from .ldm_file import read_single_file
from .sd_configs import Config

UnetT = TypeVar("UnetT", bound=nn.Module)
VaeT = TypeVar("VaeT", bound=nn.Module)

WEIGHT_FILES = tuple(
    f"diffusion_pytorch_model{variant}.{kind}" for kind in ("safetensors", "bin") for variant in ("", ".fp16")
)


@dataclass(frozen=True)
class Builders(Generic[UnetT, VaeT]):
    """Makes networks on the meta device, with diffusers' module names, from (configuration, name for messages)."""

    unet: Callable[[Config, str], UnetT]
    vae: Callable[[Config, str], VaeT]


def read_networks(
    path: Path | str, builders: Builders[UnetT, VaeT], dtype: torch.dtype, device: torch.device | str
) -> tuple[UnetT, VaeT, str]:
    """UNet, VAE and what the UNet predicts (`epsilon` or `v_prediction`), in evaluation mode, without gradients.

    path: a diffusers folder (`unet/`, `vae/`), a `.safetensors` or a `.ckpt` file. Raises
    BaseModelMismatchError, in one line, for anything else.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, builders, dtype, device)
    if not path.is_file():
        raise BaseModelMismatchError(f"There is no base model '{path}'. Give a diffusers folder or a checkpoint file.")
    tensors, metadata = _read_tensors(path)
    found = read_single_file(path, tensors, metadata)
    unet, vae = builders.unet(found.unet_config, path.name), builders.vae(found.vae_config, path.name)
    for model, weights in ((unet, found.unet), (vae, found.vae)):
        _fill(path.name, model, weights, dtype, device)
    return unet, vae, found.prediction_type


def _read_folder(
    folder: Path, builders: Builders[UnetT, VaeT], dtype: torch.dtype, device: torch.device | str
) -> tuple[UnetT, VaeT, str]:
    unet_facts, vae_facts = _config(folder, "unet"), _config(folder, "vae")
    _refuse_other_unets(folder.name, unet_facts, vae_facts)
    unet, vae = builders.unet(unet_facts, folder.name), builders.vae(vae_facts, folder.name)
    _fill(folder.name, unet, _folder_weights(folder / "unet"), dtype, device)
    vae_weights = {current_vae_key(key): value for key, value in _folder_weights(folder / "vae").items()}
    _fill(folder.name, vae, vae_weights, dtype, device)
    return unet, vae, _folder_prediction_type(folder)


def _config(folder: Path, part: str) -> Config:
    file = folder / part / "config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BaseModelMismatchError(
            f"'{folder}' has no {part}/config.json. "
            "Give a diffusers folder with `unet` and `vae`, or a checkpoint file."
        ) from error
    except ValueError as error:
        raise BaseModelMismatchError(f"'{file}' is not readable JSON ({error}). Get the file again.") from error
    return cast("Config", config)


def _refuse_other_unets(name: str, unet: Config, vae: Config) -> None:
    wants_more = [key for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type") if unet.get(key)]
    if wants_more:
        raise BaseModelMismatchError(
            f"'{name}' is an SDXL, unCLIP or other model that wants more than a text embedding "
            f"({wants_more[0]}: {unet[wants_more[0]]}). Give SD 2.1-base."
        )
    inputs, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if inputs != latents:
        raise BaseModelMismatchError(
            f"'{name}' is an inpainting, depth or other special model (UNet input {inputs}, "
            f"latent {latents} channels). Give SD 2.1-base."
        )


def _folder_prediction_type(folder: Path) -> str:
    """From the scheduler's configuration; a folder without one is taken to predict noise, as the small base
    does.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    stated = json.loads(file.read_text("utf-8")).get("prediction_type", "epsilon") if file.is_file() else "epsilon"
    if stated not in ("epsilon", "v_prediction"):
        raise BaseModelMismatchError(f"'{folder.name}' predicts '{stated}', expected epsilon or v_prediction.")
    return stated


def _folder_weights(folder: Path) -> Mapping[str, Tensor]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_tensors(folder / name)[0]
    raise BaseModelMismatchError(f"'{folder}' has no weights. Expected {WEIGHT_FILES[0]}.")


def _read_tensors(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a safetensors file or, read without running its code, of a pickle."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                metadata = cast("dict[str, str] | None", cast("Any", file).metadata())
            load = cast("Callable[[Path], dict[str, Tensor]]", safetensors.torch.load_file)
            return load(path), metadata or {}
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise BaseModelMismatchError(
            f"'{path.name}' holds more than tensors, which could run code when opened, so it was not. "
            "Convert it to .safetensors with a tool you trust."
        ) from error
    except Exception as error:  # torch's unpickler meets random bytes with any of a dozen exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BaseModelMismatchError(f"'{path.name}' is damaged or no model file ({reason}). Get it again.") from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {key: value for key, value in cast("Any", tensors).items() if isinstance(value, Tensor)}, {}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


# Some programs call us in inference mode; weights made there could never be merged into outside of it.
@torch.inference_mode(False)
def _fill(
    name: str, model: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> None:
    """Give a meta-device model its weights: all of them, in the right shapes."""
    wanted = model.state_dict()
    missing = [key for key, value in wanted.items() if key not in weights or weights[key].shape != value.shape]
    if missing:
        raise BaseModelMismatchError(
            f"'{name}': {len(missing)} of {len(wanted)} weights are missing or of another shape than its "
            f"configuration says, first {missing[0]}. Get the files again."
        )
    # A copy even where nothing changes: a view of the file lies at any address, and sums differ in their last
    # bits with the address; folder and single file must give the same image.
    placed = {key: _place(weights[key], dtype, device) for key in wanted}
    model.load_state_dict(placed, assign=True)
    model.eval().requires_grad_(False)


def _place(weight: Tensor, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    # Convolutions are a third faster on a CPU with their channels last, and no slower elsewhere.
    layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
    return weight.to(device, dtype, copy=True, memory_format=layout)
