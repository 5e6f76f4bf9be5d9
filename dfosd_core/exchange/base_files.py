"""A base model's weight files, tensor by tensor: where each layer that a LoRA can change lies, and in which shape."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..lora.merge import Place
from ..lora.metadata import BaseLayout
from ..lora.names import (
    UNET_PREFIX,
    VAE_PREFIX,
    current_vae_key,
    kohya_name,
    kohya_table,
    ldm_unet_key,
    ldm_vae_table,
)
from ..networks.config import base_layout
from ..networks.reading import WEIGHT_FILES, read_checkpoint
from ..networks.sd_configs import Config, unet_config, vae_config
from ..networks.unet import build_unet
from ..networks.vae import build_vae
from ..tensor_files import LDM_UNET, LDM_VAE, TensorFile, read_tensors


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of a base."""

    path: Path
    content: TensorFile
    """Mapped into memory, not read."""
    names: Mapping[Place, str]
    """(kohya layer name, "weight" or "bias") -> the tensor's name in the file."""


@dataclass(frozen=True, kw_only=True)
class BaseFiles:
    """A base on disk; `layout` says what it is."""

    path: Path
    layout: BaseLayout
    files: list[WeightFile]

    def shapes(self) -> dict[Place, torch.Size]:
        """Of every weight and bias."""
        places = {place for file in self.files for place in file.names}
        return {place: self.tensor(place).shape for place in places}

    def tensor(self, place: Place) -> Tensor:
        """As the base's own program reads it: of two files with the same weights, from the first."""
        return next(file.content.tensors[file.names[place]] for file in self.files if place in file.names)


def open_base(path: Path | str) -> BaseFiles:
    """A diffusers folder or a single file. Raises BaseModelMismatchError for what DFOSD cannot run, in one line."""
    path = Path(path)
    found = read_checkpoint(path)
    unet, vae = build_unet(found.unet.config, found.name), build_vae(found.vae.config, found.name)
    for part, network in ((found.unet, unet), (found.vae, vae)):
        part.weights(network.state_dict())  # a missing tensor is told here, as when the base is used
    files = list(_folder_files(path)) if path.is_dir() else [_single_file(path, found.unet.config)]
    layout = base_layout(unet.config, vae.config, found.prediction_type)
    return BaseFiles(path=path, layout=layout, files=files)


def sd21_shapes() -> tuple[BaseLayout, dict[Place, torch.Size]]:
    """Stable Diffusion 2.1-base's layout and layers, without its weights."""
    unet, vae = build_unet(unet_config(), "SD 2.1-base"), build_vae(vae_config(), "SD 2.1-base")
    networks: dict[str, nn.Module] = {UNET_PREFIX: unet, VAE_PREFIX: vae}
    shapes = {
        (kohya, kind): parameter.shape
        for prefix, network in networks.items()
        for kohya, layer in kohya_table(network, prefix).items()
        for kind, parameter in network.get_submodule(layer).named_parameters()
    }
    return base_layout(unet.config, vae.config, "epsilon"), shapes


def _folder_files(folder: Path) -> Iterator[WeightFile]:
    """Of the UNet and the VAE each number format that is there once, in the order in which programs look for it."""
    for part, prefix in (("unet", UNET_PREFIX), ("vae", VAE_PREFIX)):
        seen: set[str] = set()
        for path in (folder / part / name for name in WEIGHT_FILES):
            if path.is_file() and path.stem not in seen:
                seen.add(path.stem)
                content = read_tensors(path)
                spelled = {(current_vae_key(key) if part == "vae" else key): key for key in content.tensors}
                layers = {key.rpartition(".")[0] for key in spelled}
                yield WeightFile(path=path, content=content, names=_places(spelled, layers, prefix))


def _places(spelled: Mapping[str, str], layers: Collection[str], prefix: str) -> dict[Place, str]:
    return {
        (kohya_name(layer, prefix), kind): spelled[f"{layer}.{kind}"]
        for layer in layers
        for kind in ("weight", "bias")
        if f"{layer}.{kind}" in spelled
    }


def _single_file(path: Path, config: Config) -> WeightFile:
    content = read_tensors(path)
    up_has_attention = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]
    key_of = partial(ldm_unet_key, layers_per_block=config["layers_per_block"], up_has_attention=up_has_attention)
    unet: nn.Module = build_unet(config, path.name)
    layers = {
        kohya: LDM_UNET + key_of(f"{layer}.weight").removesuffix(".weight")
        for kohya, layer in kohya_table(unet, UNET_PREFIX).items()
    }
    vae_keys = {key.removeprefix(LDM_VAE) for key in content.tensors if key.startswith(LDM_VAE)}
    layers |= {kohya: LDM_VAE + name for kohya, name in ldm_vae_table(vae_keys).items()}
    names = {
        (kohya, kind): f"{layer}.{kind}"
        for kohya, layer in layers.items()
        for kind in ("weight", "bias")
        if f"{layer}.{kind}" in content.tensors
    }
    return WeightFile(path=path, content=content, names=names)
