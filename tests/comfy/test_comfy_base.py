"""What a run leaves behind in ComfyUI: nothing. MODEL and VAE bit for bit, no growth, no patching twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_graph import CHECKPOINT, LORA, VAE_LORA, Graph, fingerprint, picture
from support.diffusers_host import DiffusersHost
from torch import Tensor

from dfosd_core.lora.file import DfosdLora
from dfosd_core.pipeline import UpscaleSettings, upscale


def limited(graph: Graph, image: Tensor, latents: int, **inputs: Any) -> dict[str, Any]:
    """DFOSD Upscale on a base that is out of memory for more latents than that."""
    workflow = graph.upscale(image, **inputs)
    workflow["5"] = {
        "class_type": "ProbeLimit",
        "inputs": {"model": ["1", 0], "vae": ["1", 2], "latents": latents},
    }
    workflow["3"]["inputs"] |= {"model": ["5", 0], "vae": ["5", 1]}
    return workflow


@pytest.mark.parametrize("card", [False, True], ids=["hooks, as on a CPU", "patches, as on a card"])
def test_base_is_bit_equal_after_success_interruption_error_and_lack_of_memory(graph: Graph, card: bool) -> None:
    before = fingerprint(graph)
    run = graph.upscale(picture(1, 32, 32), lora=VAE_LORA, scale=2.0, card=card)
    assert graph.run(run).status == "success"
    assert fingerprint(graph) == before
    run = graph.upscale(picture(1, 48, 48), lora=VAE_LORA, unet_tile=64, unet_overlap=16, card=card)
    assert graph.run(run, interrupt_at=3).status == "interrupted"
    assert fingerprint(graph) == before
    assert graph.run(graph.upscale(picture(1, 16, 16, channels=2), lora=VAE_LORA, card=card)).status == "error"
    assert fingerprint(graph) == before
    if not card:  # the limit is on the MODEL that lies elsewhere
        assert graph.run(limited(graph, picture(1, 16, 32), 16 * 16, lora=VAE_LORA, scale=8.0)).status == "success"
        assert "Out of memory; trying again" in graph.process.log
        assert fingerprint(graph) == before
        assert graph.run(limited(graph, picture(1, 16, 16), 1, lora=VAE_LORA)).status == "error"
        assert fingerprint(graph) == before


def test_base_is_bit_equal_within_one_workflow(graph: Graph) -> None:
    before = fingerprint(graph)
    workflow = graph.upscale(picture(1, 16, 16), scale=2.0)
    inputs = {"model": ["1", 0], "vae": ["1", 2], "after": ["3", 0]}
    result = graph.run({**workflow, "9": {"class_type": "ProbeFingerprint", "inputs": inputs}})
    assert result.outputs["9"]["sha256"] == [before]


def test_stop_takes_effect_within_one_tile(graph: Graph) -> None:
    tiles: dict[str, Any] = {"unet_tile": 64, "unet_overlap": 16, "vae_tile": 64, "vae_overlap": 16}
    result = graph.run(graph.upscale(picture(1, 48, 48), **tiles), interrupt_at=4)
    assert result.status == "interrupted"
    assert len(result.progress) <= 5
    assert graph.run(graph.upscale(picture(1, 16, 16), scale=2.0)).status == "success"


def test_too_little_memory_makes_smaller_tiles_of_ours(graph: Graph, twin: DiffusersHost, lora: DfosdLora) -> None:
    """16x32 pixels by 8 are 16x32 latents; 16x16 is allowed. The host's own tiled VAE would give another image."""
    image = picture(1, 16, 32)
    found = graph.output(limited(graph, image, 16 * 16, scale=8.0))
    tiles: dict[str, Any] = {"unet_tile": 128, "unet_overlap": 32, "vae_tile": 128, "vae_overlap": 64}
    expected = upscale(image, twin, lora, UpscaleSettings(scale=8.0, **tiles))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert "Out of memory; trying again with tiles of 16 latents" in graph.process.log


def test_too_little_memory_even_for_small_tiles_is_said_in_one_line(graph: Graph) -> None:
    result = graph.run(limited(graph, picture(1, 32, 32), 1, scale=8.0))
    assert result.status == "error"
    assert "Out of memory, even with tiles of" in result.error
    assert "Free some memory or use a smaller scale" in result.error


@pytest.mark.parametrize("card", [False, True], ids=["hooks, as on a CPU", "patches, as on a card"])
def test_second_run_patches_nothing(graph: Graph, card: bool) -> None:
    def run(seed: int) -> tuple[int, float, float, list[str]]:
        torch.manual_seed(seed)
        workflow = graph.upscale(picture(1, 48, 48), scale=2.0, lora=VAE_LORA, card=card)
        probe = {"class_type": "ProbePatching", "inputs": {"after": ["3", 0]}}
        result = graph.run({**workflow, "9": probe})
        assert result.status == "success", result.error
        facts = result.outputs["9"]
        return facts["weights"][0], facts["seconds"][0], result.seconds, result.executed

    fingerprint(graph)  # another user of the base, so that the LoRA is off
    graph.run({"9": {"class_type": "ProbePatching", "inputs": {}}})
    weights, first, _, _ = run(1)
    again, second, whole, executed = run(2)
    assert "3" in executed
    assert (weights > 0, again) == (True, 0)
    assert second < 0.05 * whole
    assert not card or second < 0.1 * first


def test_twenty_runs_do_not_grow_the_process(graph: Graph) -> None:
    def run(seed: int) -> int:
        torch.manual_seed(seed)
        result = graph.run(graph.upscale(picture(1, 16, 16), scale=2.0, strength=0.5 + seed % 2 * 0.1))
        assert result.status == "success", result.error
        return result.memory_kib["RssAnon"]

    sizes = [run(seed) for seed in range(24)]
    assert sizes[-1] < 1.01 * sizes[3]


def test_one_base_is_held_at_a_time(graph: Graph) -> None:
    folder = graph.process.base / "models" / "checkpoints"
    (folder / "again.safetensors").symlink_to(folder / CHECKPOINT)
    graph.refresh()
    for checkpoint in (CHECKPOINT, "again.safetensors", CHECKPOINT):
        workflow = graph.upscale(picture(1, 8, 8), checkpoint, scale=2.0)
        result = graph.run({**workflow, "9": {"class_type": "ProbeTrim", "inputs": {"image": ["3", 0]}}})
        assert result.status == "success", result.error
        assert result.outputs["9"]["bases"] == [1]


def test_changed_file_of_the_same_name_is_read_again(graph: Graph) -> None:
    path = graph.process.base / "models" / "loras" / "changing.safetensors"
    sources = [graph.process.base / "models" / folder / name for folder, name in (("dfosd", LORA), ("loras", VAE_LORA))]
    image = picture(1, 16, 16)
    found: list[Tensor] = []
    for source in sources:
        path.write_bytes(source.read_bytes())
        graph.refresh()
        found.append(graph.output(graph.upscale(image, scale=2.0, lora=path.name)))
        expected = graph.output(graph.upscale(image, scale=2.0, lora=source.name))
        assert torch.equal(found[-1], expected)
    assert not torch.equal(*found)
