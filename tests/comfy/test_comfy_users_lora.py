"""A user's own LoRA on the MODEL, loaded by the real ComfyUI, acts below ours, and is gone when it is taken away."""

from __future__ import annotations

import copy

import pytest
import torch
from comfy_graph import Graph, fingerprint, picture
from safetensors.torch import save_file
from support.diffusers_host import DiffusersHost
from support.tiny_models import random_lora

from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.merge import delta_weight
from dfosd_core.lora.names import UNET_PREFIX, kohya_table
from dfosd_core.pipeline import UpscaleSettings, upscale

USERS = "users.safetensors"
STRENGTH = 0.8
TOLERANCE = 2e-4


def with_lora(host: DiffusersHost, users: DfosdLora) -> DiffusersHost:
    """A copy with a LoRA in the UNet's weights; `host.lora` takes one at a time, and ours comes second."""
    unet = copy.deepcopy(host.unet)
    names = kohya_table(unet, UNET_PREFIX)
    with torch.no_grad():
        for name, pair in users.pairs.items():
            weight = unet.get_submodule(names[name]).weight
            weight += delta_weight(pair, STRENGTH, weight.shape)
    return DiffusersHost(unet, host.vae, host.layout)


@pytest.mark.parametrize("card", [False, True], ids=["hooks, as on a CPU", "patches, as on a card"])
def test_users_lora_acts_below_ours(graph: Graph, twin: DiffusersHost, lora: DfosdLora, card: bool) -> None:
    users = random_lora(twin, seed=23, size=0.2)
    pairs = {name: value for name, value in users.tensors().items() if name.startswith("lora_unet_")}
    save_file(pairs, graph.process.base / "models" / "loras" / USERS)
    graph.refresh()
    image, settings = picture(1, 32, 24), UpscaleSettings(scale=2.0)
    plain = upscale(image, twin, lora, settings)
    both = upscale(image, with_lora(twin, users), lora, settings)
    assert (both - plain).abs().max() > 100 * TOLERANCE
    before = fingerprint(graph)
    alone = graph.upscale(image, scale=2.0, card=card)
    inputs = alone["3"]["inputs"]
    loader = {"model": inputs["model"], "lora_name": USERS, "strength_model": STRENGTH}
    together = {
        **alone,
        "3": {**alone["3"], "inputs": {**inputs, "model": ["5", 0]}},
        "5": {"class_type": "LoraLoaderModelOnly", "inputs": loader},
    }
    for workflow, expected in ((together, both), (alone, plain), (together, both)):
        torch.testing.assert_close(graph.output(workflow), expected, rtol=0, atol=TOLERANCE)
    assert fingerprint(graph) == before
