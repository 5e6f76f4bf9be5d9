"""What `dfosd export --kohya` makes of other methods' LoRAs, in the real ComfyUI's own loader: all of it is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_graph import CHECKPOINT, Graph
from safetensors.torch import load_file, save_file
from support.diffusers_host import DiffusersHost
from support.peers import PEERS
from torch import Tensor

from dfosd_core.cli.main import main
from dfosd_core.hosts.own import load_base
from dfosd_core.lora.file import ImportedLora
from dfosd_core.lora.open import open_lora

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOLERANCE = 2e-5
"""Of the largest value, both in float32."""


def noise(graph: Graph, inputs: dict[str, Tensor], timestep: int, loader: dict[str, Any] | None) -> Tensor:
    """What the host's UNet predicts, with this node between checkpoint and probe."""
    paths = {name: str(graph.folder / f"{name}.safetensors") for name in ("inputs", "path")}
    save_file(inputs, paths["inputs"])
    workflow = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "9": {
            "class_type": "ProbeEps",
            "inputs": {"model": ["5" if loader else "1", 0], "timestep": timestep, **paths},
        },
    }
    result = graph.run({**workflow, **({"5": loader} if loader else {})})
    assert result.status == "success", result.error
    return load_file(paths["path"])["eps"]


@pytest.mark.parametrize("name", PEERS)
def test_hosts_own_loader_takes_it_whole(
    name: str, graph: Graph, twin: DiffusersHost, capfd: pytest.CaptureFixture[str]
) -> None:
    models = graph.process.base / "models"
    checkpoint, file = models / "checkpoints" / CHECKPOINT, f"{name}_exported.safetensors"
    _, source = graph.add_peer(name, twin)
    base = ("--base", str(checkpoint)) if name == "osediff" else ()  # it replaces conv_in
    assert main(["export", "--kohya", str(source), "-o", str(models / "loras" / file), *base]) == 0
    graph.refresh()
    generator = torch.Generator().manual_seed(2)
    inputs = {
        "z": torch.randn(1, 4, 8, 8, generator=generator),
        "context": torch.randn(1, 77, 1024, generator=generator),
    }
    lora = open_lora(source)
    assert isinstance(lora, ImportedLora)
    t = lora.metadata.timestep
    host = load_base(checkpoint, torch.float32, torch.device("cpu"))
    with host.lora(lora.with_prompt(inputs["context"]), 1.0):
        expected = host.predict_eps(inputs["z"], t, inputs["context"])
    printed = len(graph.process.log)
    loader = {"model": ["1", 0], "lora_name": file, "strength_model": 1.0}
    found = noise(graph, inputs, t, {"class_type": "LoraLoaderModelOnly", "inputs": loader})
    assert not [line for line in graph.process.log[printed:].splitlines() if "lora" in line.lower()]
    size = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * size)
    assert (noise(graph, inputs, t, None) - expected).abs().max() > 1000 * TOLERANCE * size
