"""What a user of ComfyUI can get wrong: one line that says what to do, and the queue goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import safetensors.torch
import torch
from comfy_graph import CHECKPOINT, LORA, Graph, picture
from safetensors import safe_open
from support.diffusers_host import DiffusersHost
from torch import Tensor

from dfosd_core.lora.file import DfosdLora, save_lora


def error_of(graph: Graph, workflow: dict[str, Any]) -> str:
    result = graph.run(workflow)
    assert result.status == "error", result
    assert "\n" not in result.error
    return result.error


def changed_lora(lora: DfosdLora, name: str, graph: Graph, **layout: Any) -> str:
    """The name of a LoRA for another base."""
    base = dataclasses.replace(lora.metadata.base_layout, **layout)
    metadata = dataclasses.replace(lora.metadata, base_layout=base)
    embeds = torch.zeros(1, 7, base.context_dim)
    save_lora(
        graph.process.base / "models" / "loras" / name,
        dataclasses.replace(lora, metadata=metadata, prompt_embeds=embeds),
    )
    graph.refresh()
    return name


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"context_dim": 768}, ["context_dim 768 != 1024", "Stable Diffusion 1.5"]),
        ({"prediction_type": "v_prediction"}, ["Stable Diffusion 2.1, the 768 px v model"]),
        ({"in_channels": 9}, ["inpainting or depth", "in_channels 9 != 4"]),
        ({"latent_channels": 16, "latent_factor": 4}, ["the connected VAE has 4 at 1/8", "Connect the base's own VAE"]),
    ],
    ids=["context", "v", "inpainting", "vae"],
)
def test_base_that_is_not_the_loras_is_refused(
    graph: Graph, lora: DfosdLora, layout: dict[str, Any], words: list[str]
) -> None:
    name = changed_lora(lora, f"other_{'_'.join(layout)}.safetensors", graph, **layout)
    error = error_of(graph, graph.upscale(picture(1, 8, 8), lora=name))
    assert "ValueError: " in error
    for word in words:
        assert word in error


def test_v_predicting_model_is_refused_for_a_base_lora(graph: Graph) -> None:
    inputs = {"model": ["1", 0], "sampling": "v_prediction", "zsnr": False}
    workflow = graph.upscale(picture(1, 8, 8), model=["5", 0])
    workflow["5"] = {"class_type": "ModelSamplingDiscrete", "inputs": inputs}
    assert "2.1-base, the 512 px epsilon model" in error_of(graph, workflow)
    inputs["sampling"] = "lcm"
    assert "expected EPS or V_PREDICTION" in error_of(graph, workflow)


def test_missing_model_and_vae_are_named(graph: Graph) -> None:
    error = error_of(graph, graph.upscale(picture(1, 8, 8), model=None, vae=None))
    assert "connect model and vae" in error
    assert "choose 'embedded small x4 (no model needed)'" in error
    assert "connect vae of" in error_of(graph, graph.upscale(picture(1, 8, 8), vae=None))


def test_file_that_is_not_there_is_refused_before_the_run(graph: Graph) -> None:
    result = graph.run(graph.upscale(picture(1, 8, 8), lora="nowhere.safetensors"))
    assert result.status == "refused"
    assert "nowhere.safetensors" in result.error


def test_file_that_has_gone_is_named(graph: Graph, lora: DfosdLora) -> None:
    name = changed_lora(lora, "gone.safetensors", graph)
    workflow = graph.upscale(picture(1, 8, 8), lora=name)
    (graph.process.base / "models" / "loras" / name).unlink()
    result = graph.run(workflow)
    assert "gone.safetensors" in result.error
    assert result.status in ("refused", "error")


def test_settings_that_contradict_each_other_are_refused_before_the_run(graph: Graph) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"long_edge": 64, "short_edge": 64}, "Give only one of them"),
        ({"vae_tile": 64, "vae_overlap": 60}, "at most half the vae_tile"),
        ({"unet_tile": 9000}, "from 0 to 8192"),
    ]
    for inputs, words in refused:
        result = graph.run(graph.upscale(picture(1, 8, 8), **inputs))
        assert result.status == "refused"
        assert words in result.error


def test_wrong_images_and_conditionings_are_refused(graph: Graph) -> None:
    assert "RGB or RGBA" in error_of(graph, graph.upscale(picture(1, 8, 8, channels=2)))
    loader = {"class_type": "DFOSDLoadLoRA", "inputs": {"model": ["1", 0], "lora": LORA, "strength": 1.0}}
    two = {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["5", 1], "conditioning_2": ["5", 1]}}
    workflow = graph.upscale(picture(1, 8, 8), conditioning=["6", 0])
    assert "one text embedding, found 2" in error_of(graph, {**workflow, "5": loader, "6": two})


def renamed(graph: Graph, twin: DiffusersHost, name: str, style: str) -> dict[str, Tensor]:
    """The random LoRA under other names: kohya's are what the project writes."""
    modules = {f"lora_unet_{module.replace('.', '_')}": module for module, _ in twin.unet.named_modules()}
    path = graph.process.base / "models" / "dfosd" / LORA
    tensors: dict[str, Tensor] = {}
    for key, value in safetensors.torch.load_file(path).items():
        layer, _, part = key.partition(".")
        if layer not in modules:
            tensors[key] = value
            continue
        part = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}.get(part, part)
        tensors[f"{style.format(modules[layer])}.{part}"] = value
    with safe_open(path, "pt") as file:
        header = {key: value for key, value in file.metadata().items() if key != "modelspec.hash_sha256"}
    safetensors.torch.save_file(tensors, graph.process.base / "models" / "dfosd" / name, header)
    graph.refresh()
    return tensors


@pytest.mark.parametrize("style", ["{}", "unet.{}", "base_model.model.{}"])
def test_peft_and_diffusers_names_attach_completely(graph: Graph, twin: DiffusersHost, style: str) -> None:
    image = picture(1, 16, 16)
    renamed(graph, twin, "renamed.safetensors", style)
    found = graph.output(graph.upscale(image, scale=2.0, lora="renamed.safetensors"))
    assert torch.equal(found, graph.output(graph.upscale(image, scale=2.0)))


def test_names_that_do_not_attach_are_refused(graph: Graph, twin: DiffusersHost) -> None:
    renamed(graph, twin, "ldm.safetensors", "diffusion_model.{}")
    error = error_of(graph, graph.upscale(picture(1, 8, 8), lora="ldm.safetensors"))
    assert "does not fit this base" in error
    assert "no such layer" in error


def test_file_that_is_no_dfosd_lora_is_named_for_what_it_is(graph: Graph) -> None:
    folder = graph.process.base / "models" / "loras"
    safetensors.torch.save_file({"lora_unet_conv_in.lora_down.weight": torch.zeros(1)}, folder / "style.safetensors")
    (folder / "base.safetensors").symlink_to(graph.process.base / "models" / "checkpoints" / CHECKPOINT)
    graph.refresh()
    assert "an ordinary LoRA without DFOSD's metadata" in error_of(
        graph, graph.upscale(picture(1, 8, 8), lora="style.safetensors")
    )
    assert "is a whole base model or a part of one" in error_of(
        graph, graph.upscale(picture(1, 8, 8), lora="base.safetensors")
    )
