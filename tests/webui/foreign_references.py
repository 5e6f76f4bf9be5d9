"""What our own networks make of each file of `foreign_loras`, its changes written into their weights.

A process of its own, so that its 5 GB are free again before a host starts.

    python foreign_references.py CHECKPOINT FOLDER      writes FOLDER/NAME.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import foreign_loras
import numpy as np
import torch
from torch import Tensor
from webui_calls import input_image

from dfosd_core.hosts.own import OwnHost, load_base
from dfosd_core.lora.importers.content import ImportedLora
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX, kohya_table
from dfosd_core.lora.open import open_lora
from dfosd_core.networks.reading import read_empty_prompt
from dfosd_core.pipeline import UpscaleSettings, upscale_attached


@torch.no_grad()
def reference(checkpoint: Path, file: Path) -> Tensor:
    """The image; the networks are not kept, and so need no copy of the weights."""
    host, lora = load_base(checkpoint, torch.float32), open_lora(file)
    assert isinstance(lora, ImportedLora)
    layers = layers_of(host)
    for values, part in ((lora.set_weights, "weight"), (lora.set_biases, "bias")):
        for layer, value in values.items():
            layers[layer].get_parameter(part).copy_(value)
    for layer, pair in lora.pairs.items():
        weight = layers[layer].get_parameter("weight")
        change = pair.alpha / pair.rank * (pair.up.float().flatten(1) @ pair.down.float().flatten(1))
        weight.add_(change.view_as(weight))
    whole = lora.with_prompt(read_empty_prompt(checkpoint, lora.metadata.base_layout.context_dim))
    return upscale_attached(input_image(), host, whole, UpscaleSettings())


def layers_of(host: OwnHost) -> dict[str, torch.nn.Module]:
    """kohya name -> layer."""
    networks = ((UNET_PREFIX, host.unet), (VAE_PREFIX, host.vae))
    return {
        kohya: network.get_submodule(name)
        for prefix, network in networks
        for kohya, name in kohya_table(network, prefix).items()
    }


if __name__ == "__main__":
    for name in foreign_loras.NAMES:
        np.save(Path(sys.argv[2]) / f"{name}.npy", reference(Path(sys.argv[1]), Path(sys.argv[2]) / name).numpy())
