"""The tests' own small ComfyUI with DFOSD, a base and a LoRA in it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support.fakes.comfyui import ComfyUI, load_checkpoint
from support.fakes.install import installed
from support.fakes.networks import TinySd, tiny_sd

from dfosd_core.lora.file import save_lora

LORA = "tiny.safetensors"


class Place(NamedTuple):
    """A ComfyUI with DFOSD and a base in it."""

    program: ComfyUI
    pack: str
    sd: TinySd
    model: Any
    vae: Any

    def node(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack}.nodes.comfy.mappings").NODE_CLASS_MAPPINGS[name]()

    def part(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack}.dfosd_core.{name}")


@contextmanager
def fake_place(folder: Path) -> Iterator[Place]:
    """`folder` becomes its base directory; LORA lies in models/dfosd."""
    program, sd = ComfyUI(folder), tiny_sd()
    for name in ("dfosd", "loras"):
        (program.folder / "models" / name).mkdir(parents=True)
    save_lora(program.folder / "models" / "dfosd" / LORA, sd.lora)
    with installed(program.modules()) as pack:
        yield Place(program, pack, sd, *load_checkpoint(sd, on_a_card=True))


class Prompt:
    """The host's DYNPROMPT of a loader, a LoRA on its MODEL, and DFOSD Upscale as node 3."""

    def __init__(self, checkpoint: str, strength: float = 1.0) -> None:
        self.nodes = {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
            "2": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["1", 0], "strength_model": strength}},
            "3": {"class_type": "DFOSDUpscale", "inputs": {"model": ["2", 0], "vae": ["1", 2], "scale": 4.0}},
        }

    def get_node(self, name: str) -> dict[str, Any]:
        return self.nodes[name]
