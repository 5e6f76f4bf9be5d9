"""Workflows around DFOSD Upscale, and what goes into them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch
from comfy_process import ComfyProcess, Result
from safetensors.torch import load_file, save_file
from support.diffusers_host import DiffusersHost
from support.peers import PEERS, Peer
from torch import Tensor, nn
from torch.nn import functional

from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX, kohya_name

CHECKPOINT = "random.safetensors"
BASE = "with_text.safetensors"
"""The same with a text encoder."""
LORA = "random_lora.safetensors"
VAE_LORA = "vae_lora.safetensors"
EMBEDDED = "embedded small x4 (no model needed)"


def picture(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Random images (B, H, W, C), soft with some grain."""
    smooth = functional.interpolate(torch.rand(batch, channels, 4, 4), size=(height, width), mode="bicubic").clamp(0, 1)
    return (0.8 * smooth + 0.2 * torch.rand(batch, channels, height, width)).movedim(1, -1).contiguous()


def with_vae_layers(lora: DfosdLora, host: DiffusersHost) -> DfosdLora:
    """`lora` and pairs on every layer of the VAE, a new UNet conv_in with another bias."""
    generator = torch.Generator().manual_seed(11)
    pairs = dict(lora.pairs)
    for name, layer in host.vae.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            shape = layer.weight.shape
            down = torch.randn(2, *shape[1:], generator=generator) / layer.weight[0].numel() ** 0.5
            up = torch.randn(shape[0], 2, *(1,) * (len(shape) - 2), generator=generator) * 0.1
            pairs[kohya_name(name, VAE_PREFIX)] = LoraPair(down=down, up=up, alpha=2.0)
    conv_in = host.unet.conv_in
    return dataclasses.replace(
        lora,
        pairs=pairs,
        set_weights={kohya_name("conv_in", UNET_PREFIX): conv_in.weight * 0.7},
        set_biases={kohya_name("conv_in", UNET_PREFIX): conv_in.bias * 0.7 + 0.1},
    )


class Graph:
    """Workflows around DFOSD Upscale with the random base, and the float images they give."""

    def __init__(self, process: ComfyProcess, folder: Path) -> None:
        self.process = process
        self.folder = folder

    def image(self, image: Tensor, name: str = "in") -> dict[str, Any]:
        path = self.folder / f"{name}.safetensors"
        save_file({"image": image.contiguous()}, path)
        return {"class_type": "ProbeLoadTensor", "inputs": {"path": str(path)}}

    def upscale(self, image: Tensor, checkpoint: str = CHECKPOINT, card: bool = False, **inputs: Any) -> dict[str, Any]:
        """A workflow whose result `output` reads; `inputs` are DFOSD Upscale's.

        `card`: the MODEL is one that looks as if it lay on a graphics card, so that the host patches it.
        """
        widgets = self.process.nodes["DFOSDUpscale"]["input"]["required"].items()
        defaults = {name: options["default"] for name, (_, options) in widgets if "default" in options}
        values = {**defaults, "lora": LORA, "model": ["1", 0], "vae": ["1", 2], "image": ["2", 0], **inputs}
        if card:
            values["model"] = ["8", 0]
        workflow = {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
            "2": self.image(image),
            "3": {"class_type": "DFOSDUpscale", "inputs": {k: v for k, v in values.items() if v is not None}},
            "4": {
                "class_type": "ProbeSaveTensor",
                "inputs": {"image": ["3", 0], "path": str(self.folder / "out.safetensors")},
            },
        }
        if card:
            workflow["8"] = {"class_type": "ProbeLikeOnACard", "inputs": {"model": ["1", 0]}}
        return workflow

    def add_peer(self, name: str, twin: DiffusersHost) -> tuple[Peer, Path]:
        """Another method's adapters on a copy of the base's networks; its file or folder among the host's LoRAs."""
        peer = inspect.unwrap(PEERS[name])(copy.deepcopy(twin))  # not kept, unlike those of the small base
        folder = self.process.base / "models" / ("dfosd" if name == "omgsr" else "loras")
        path = folder / peer.file_name
        if not path.exists():
            peer.write(folder)
        self.refresh()
        return peer, path

    def refresh(self) -> None:
        """Let the host see new files, as a press of R on the page does."""
        self.process.refresh()

    def run(self, workflow: dict[str, Any], **options: Any) -> Result:
        return self.process.run(workflow, **options)

    def output(self, workflow: dict[str, Any]) -> Tensor:
        result = self.run(workflow)
        assert result.status == "success", result.error
        return load_file(self.folder / "out.safetensors")["image"]


def fingerprint(graph: Graph, checkpoint: str = CHECKPOINT) -> str:
    """Of what the host's own nodes make of the base, and of its weights."""
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}}
    probe = {"class_type": "ProbeFingerprint", "inputs": {"model": ["1", 0], "vae": ["1", 2]}}
    result = graph.run({"1": loader, "9": probe})
    assert result.status == "success", result.error
    return result.outputs["9"]["sha256"][0]
