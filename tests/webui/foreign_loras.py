"""LoRAs of other methods in the full layout of Stable Diffusion 2.1-base, with random weights: 1.2 GB in all.

And TAESD's light decoder, with random weights too.

python tests/webui/foreign_loras.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from support.decoders import taesd_tensors
from torch import Tensor, nn

from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.networks.unet import build_unet
from dfosd_core.networks.vae import build_vae

NAMES = ("osediff.pkl", "pisa_sr.pkl", "HYPIR_sd2.pth", "OMGSR-S")
DECODER = "taesd_decoder.pth"
FOLDER = "imported"
"""Where all of them lie in models/DFOSD."""
Layers = Mapping[str, nn.Module]


class Run(NamedTuple):
    """What is upscaled with what."""

    lora: str
    decoder: str = ""
    settings: Mapping[str, Any] = {}


RUNS = {
    **{name: Run(name) for name in NAMES},
    "light_decoder": Run("osediff.pkl", DECODER),
    "two_passes": Run("pisa_sr.pkl", settings={"pixel_strength": 0.6, "strength": 1.3}),
}
"""The image of each is in NAME.npy."""


def write_all(folder: Path) -> None:
    """The four of `NAMES`, and `DECODER`, into an existing folder."""
    with torch.device("meta"):
        unet = _layers(build_unet(unet_config(), "SD 2.1"))
        vae = _layers(build_vae(vae_config(), "SD 2.1"))
    for write in (_osediff, _pisa_sr, _hypir, _omgsr):
        write(folder, unet, vae, _random(write.__name__))
    torch.save(taesd_tensors(), folder / DECODER)


def _layers(network: nn.Module) -> Layers:
    kinds = nn.Conv2d | nn.Linear
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kinds) and "time_" not in name}


def _random(seed: str) -> Callable[..., Tensor]:
    """A tensor of rows that hardly change a signal's size, so that a LoRA of it shows and does not drown the base."""
    generator = torch.Generator().manual_seed(sum(seed.encode()))

    def random(*shape: int) -> Tensor:
        fan = torch.Size(shape[1:]).numel()
        return torch.randn(shape, generator=generator) * 0.4 / fan**0.5

    return random


def _pairs(layers: Layers, names: Iterable[str], rank: int, adapter: str, random: Callable[..., Tensor]) -> Any:
    tensors: dict[str, Tensor] = {}
    for name in names:
        shape = layers[name].get_parameter("weight").shape
        tail = (1,) * (len(shape) - 2)
        tensors[f"{name}.lora_A{adapter}.weight"] = random(rank, *shape[1:])
        tensors[f"{name}.lora_B{adapter}.weight"] = random(shape[0], rank, *tail)
    return tensors


def _thirds(layers: Layers) -> dict[str, list[str]]:
    first = [name for name in layers if name.startswith(("conv_in", "down_blocks"))]
    second = [name for name in layers if name.startswith(("conv_out", "up_blocks"))]
    return {"encoder": first, "decoder": second, "others": [n for n in layers if n not in {*first, *second}]}


def _osediff(folder: Path, unet: Layers, vae: Layers, random: Callable[..., Tensor]) -> None:
    thirds = _thirds(unet)
    encoder = [name for name in vae if name.startswith(("encoder", "quant_conv"))]
    first = unet["conv_in"].get_parameter("weight").shape
    state = {
        "conv_in.base_layer.weight": random(*first) * 2.5,
        "conv_in.base_layer.bias": torch.linspace(-0.1, 0.1, first[0]),
    }
    for part, names in thirds.items():
        state |= _pairs(unet, names, 4, f".default_{part}", random)
    entries = {
        **{f"unet_lora_{part}_modules": names for part, names in thirds.items()},
        "vae_lora_encoder_modules": encoder,
        "rank_unet": 4,
        "rank_vae": 4,
        "state_dict_unet": state,
        "state_dict_vae": _pairs(vae, encoder, 4, ".default_encoder", random),
    }
    torch.save(entries, folder / "osediff.pkl")


def _pisa_sr(folder: Path, unet: Layers, vae: Layers, random: Callable[..., Tensor]) -> None:
    entries: dict[str, Any] = {"lora_rank_unet_pix": 4, "lora_rank_unet_sem": 4, "state_dict_unet": {}}
    for kind in ("pix", "sem"):
        for part, names in _thirds(unet).items():
            entries[f"unet_lora_{part}_modules_{kind}"] = names
            entries["state_dict_unet"] |= _pairs(unet, names, 4, f".default_{part}_{kind}", random)
    torch.save(entries, folder / "pisa_sr.pkl")


def _hypir(folder: Path, unet: Layers, vae: Layers, random: Callable[..., Tensor]) -> None:
    state = _pairs(unet, [name for name in unet if name != "conv_in"], 256, ".default", random)
    torch.save(state, folder / "HYPIR_sd2.pth")


def _omgsr(folder: Path, unet: Layers, vae: Layers, random: Callable[..., Tensor]) -> None:
    in_unet = [name for name in unet if not any(part in name for part in ("ff.", "proj_"))]
    in_vae = [name for name in vae if name.startswith("encoder")]
    parts = (("unet_lora_adapter", unet, in_unet, 32), ("vae_encoder_lora_adapter", vae, in_vae, 16))
    for part, layers, names, rank in parts:
        place = folder / "OMGSR-S" / part
        place.mkdir(parents=True)
        pairs = _pairs(layers, names, rank, "", random).items()
        named = {f"base_model.model.{name.removeprefix('encoder.')}": value for name, value in pairs}
        safetensors.torch.save_file(named, place / "adapter_model.safetensors")
        (place / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": rank, "peft_type": "LORA"}))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
