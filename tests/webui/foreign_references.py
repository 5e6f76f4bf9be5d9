"""What our own networks make of each of `foreign_loras.RUNS`, a LoRA's changes written into their weights.

A process of its own, so that its 5 GB are free again before a host starts.

    python foreign_references.py CHECKPOINT FOLDER      writes FOLDER/NAME.npy, where it is not there yet
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from foreign_loras import RUNS, Run
from torch import Tensor
from webui_calls import input_image

from dfosd_core.host import Host, HostAround
from dfosd_core.hosts.light import LightHost
from dfosd_core.hosts.own import OwnHost, load_base
from dfosd_core.lora.changes import LoraPair
from dfosd_core.lora.file import ImportedLora
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX, kohya_table
from dfosd_core.lora.open import open_lora
from dfosd_core.networks.light_decoder import read_decoder
from dfosd_core.networks.reading import read_empty_prompt
from dfosd_core.pipeline import UpscaleSettings, upscale_attached


@torch.no_grad()
def reference(checkpoint: Path, folder: Path, run: Run) -> Tensor:
    """The image; the networks are not kept, and so need no copy of the weights."""
    own, lora = load_base(checkpoint, torch.float32), open_lora(folder / run.lora)
    assert isinstance(lora, ImportedLora)
    layers = layers_of(own)
    for values, part in ((lora.set_weights, "weight"), (lora.set_biases, "bias")):
        for layer, value in values.items():
            layers[layer].get_parameter(part).copy_(value)
    for layer, pair in lora.pairs.items():
        _add(layers[layer], pair, slice(None))
    host: Host = own
    if run.settings:
        host = _TwoPasses(host, lora, layers, **run.settings)
    if run.decoder:
        host = LightHost(host, read_decoder(folder / run.decoder))
    whole = lora.with_prompt(read_empty_prompt(checkpoint, lora.metadata.base_layout.context_dim))
    return upscale_attached(input_image(), host, whole, UpscaleSettings())


class _TwoPasses(HostAround):
    """PiSA-SR's two strengths, on networks with both of its LoRAs in their weights."""

    def __init__(
        self, host: Host, lora: ImportedLora, layers: dict[str, torch.nn.Module], pixel_strength: float, strength: float
    ) -> None:
        super().__init__(host)
        self._lora, self._layers = lora, layers
        self._strengths = pixel_strength, strength

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        p_full = super().predict_eps(z, t, prompt_embeds)
        semantic = slice(self._lora.metadata.parts["pixel"], None)  # its rows are behind the pixel part's
        for layer, pair in self._lora.pairs.items():
            _add(self._layers[layer], pair, semantic, -1.0)
        p_pixel = super().predict_eps(z, t, prompt_embeds)
        pixel, strength = self._strengths
        return pixel * p_pixel + strength * (p_full - p_pixel)


def _add(layer: torch.nn.Module, pair: LoraPair, rows: slice, factor: float = 1.0) -> None:
    weight = layer.get_parameter("weight")
    change = pair.up.float().flatten(1)[:, rows] @ pair.down.float().flatten(1)[rows]
    weight.add_(change.view_as(weight), alpha=factor * pair.scaling)


def layers_of(host: OwnHost) -> dict[str, torch.nn.Module]:
    """kohya name -> layer."""
    networks = ((UNET_PREFIX, host.unet), (VAE_PREFIX, host.vae))
    return {
        kohya: network.get_submodule(name)
        for prefix, network in networks
        for kohya, name in kohya_table(network, prefix).items()
    }


if __name__ == "__main__":
    given = Path(sys.argv[2])
    for name, run in RUNS.items():
        if not (given / f"{name}.npy").exists():
            np.save(given / f"{name}.npy", reference(Path(sys.argv[1]), given, run).numpy())
