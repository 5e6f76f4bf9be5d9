"""DFOSD Upscale in the real ComfyUI beside the standalone program's host, on the same weights and LoRA."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_graph import CHECKPOINT, EMBEDDED, LORA, VAE_LORA, Graph, picture
from PIL import Image
from safetensors.torch import save_file
from support.decoders import taesd_image, taesd_tensors
from support.diffusers_host import DiffusersHost
from torch import Tensor

from dfosd_core.host import HostAround
from dfosd_core.hosts.own import fast_dtype, load_default
from dfosd_core.lora.file import DfosdLora, save_lora
from dfosd_core.pipeline import UpscaleSettings, upscale

TOLERANCE = 2e-4
TILED: dict[str, Any] = {"scale": 4.0, "unet_tile": 64, "unet_overlap": 16, "vae_tile": 64, "vae_overlap": 16}


@pytest.mark.parametrize("card", [False, True], ids=["hooks, as on a CPU", "patches, as on a card"])
@pytest.mark.parametrize(
    "settings",
    [{"scale": 2.0}, TILED, {"long_edge": 61, "strength": 0.5, "color_fix": "none"}],
    ids=["whole", "tiled", "other settings"],
)
def test_image_is_the_standalone_hosts(
    graph: Graph, twin: DiffusersHost, lora: DfosdLora, settings: dict[str, Any], card: bool
) -> None:
    image = picture(1, 35, 27)
    expected = upscale(image, twin, lora, UpscaleSettings(**settings))
    found = graph.output(graph.upscale(image, card=card, **settings))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert expected.std() > 0.05


def test_vae_layers_and_replaced_weights_are_the_standalone_hosts(
    graph: Graph, twin: DiffusersHost, lora: DfosdLora, vae_lora: DfosdLora
) -> None:
    image, settings = picture(1, 32, 32), UpscaleSettings(scale=2.0, strength=0.7)
    expected = upscale(image, twin, vae_lora, settings)
    for card in (False, True):
        found = graph.output(graph.upscale(image, card=card, lora=VAE_LORA, scale=2.0, strength=0.7))
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert (expected - upscale(image, twin, lora, settings)).abs().max() > 0.01


def test_light_decoder_gives_its_own_image(graph: Graph, twin: DiffusersHost, lora: DfosdLora) -> None:
    """Put where the host keeps TAESD; listed by its content."""
    image, tensors = picture(1, 32, 40), taesd_tensors()
    folder = graph.process.base / "models" / "vae_approx"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "some_decoder.safetensors")
    save_file({"1.weight": torch.zeros(64, 16, 3, 3)}, folder / "of_another_model.safetensors")
    graph.refresh()
    names = graph.process.nodes["DFOSDUpscale"]["input"]["optional"]["decoder"][0]
    assert names == ["full", "some_decoder.safetensors"]
    settings = UpscaleSettings(scale=2.0, color_fix="none")
    found = graph.output(graph.upscale(image, scale=2.0, color_fix="none", decoder="some_decoder.safetensors"))
    z_sr: list[Tensor] = []

    class Watched(HostAround):
        def decode(self, z: Tensor) -> Tensor:
            z_sr.append(z)
            return super().decode(z)

    full = upscale(image, Watched(twin), lora, settings)
    expected = taesd_image(tensors, z_sr[0]).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert (expected - full).abs().max() > 0.05


def test_v_predicting_base_is_the_standalone_hosts(graph: Graph, twin: DiffusersHost, lora: DfosdLora) -> None:
    layout = dataclasses.replace(twin.layout, prediction_type="v_prediction")
    v_lora = dataclasses.replace(lora, metadata=dataclasses.replace(lora.metadata, base_layout=layout))
    save_lora(graph.process.base / "models" / "loras" / "v.safetensors", v_lora)
    graph.refresh()
    image = picture(1, 16, 24)
    workflow = graph.upscale(image, lora="v.safetensors", scale=2.0, model=["5", 0])
    inputs = {"model": ["1", 0], "sampling": "v_prediction", "zsnr": False}
    found = graph.output({**workflow, "5": {"class_type": "ModelSamplingDiscrete", "inputs": inputs}})
    expected = upscale(image, DiffusersHost(twin.unet, twin.vae, layout), v_lora, UpscaleSettings(scale=2.0))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_load_lora_and_its_outputs_give_the_same_image(graph: Graph) -> None:
    image = picture(1, 32, 24)
    alone = graph.output(graph.upscale(image, lora=VAE_LORA, scale=2.0, strength=0.7))
    inputs = {"model": ["1", 0], "lora": VAE_LORA, "strength": 0.7}
    chain = graph.upscale(image, scale=2.0, model=["5", 0], lora_settings=["5", 3], conditioning=["5", 1])
    together = graph.output({**chain, "5": {"class_type": "DFOSDLoadLoRA", "inputs": inputs}})
    torch.testing.assert_close(together, alone, rtol=0, atol=TOLERANCE)


def test_conditioning_replaces_the_prompt(graph: Graph, twin: DiffusersHost, lora: DfosdLora) -> None:
    image = picture(1, 32, 32)
    zeros = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["5", 1]}}
    loader = {"class_type": "DFOSDLoadLoRA", "inputs": {"model": ["1", 0], "lora": LORA, "strength": 1.0}}
    found = graph.output({**graph.upscale(image, scale=2.0, conditioning=["6", 0]), "5": loader, "6": zeros})
    silent = DfosdLora(pairs=lora.pairs, prompt_embeds=torch.zeros_like(lora.prompt_embeds), metadata=lora.metadata)
    expected = upscale(image, twin, silent, UpscaleSettings(scale=2.0))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_alpha_is_kept_and_images_of_a_batch_do_not_touch_each_other(
    graph: Graph, twin: DiffusersHost, lora: DfosdLora
) -> None:
    images = picture(3, 24, 32, channels=4)
    found = graph.output(graph.upscale(images, scale=2.0))
    assert found.shape == (3, 48, 64, 4)
    torch.testing.assert_close(found, upscale(images, twin, lora, UpscaleSettings(scale=2.0)), rtol=0, atol=TOLERANCE)
    assert torch.equal(graph.output(graph.upscale(images[1:2], scale=2.0)), found[1:2])


def test_one_pixel_and_odd_sizes_come_out_in_the_size_asked_for(graph: Graph) -> None:
    for height, width in ((1, 1), (3, 17)):
        found = graph.output(graph.upscale(picture(1, height, width), scale=2.0))
        assert found.shape == (1, 2 * height, 2 * width, 3)
        assert bool(found.isfinite().all())


def test_embedded_model_needs_nothing_connected_and_is_the_standalone_default(graph: Graph) -> None:
    image = picture(2, 20, 24)
    found = graph.output(graph.upscale(image, lora=EMBEDDED, model=None, vae=None))
    host, lora = load_default(fast_dtype("cpu"))
    torch.testing.assert_close(found, upscale(image, host, lora), rtol=0, atol=TOLERANCE)


def test_connected_base_is_not_loaded_for_the_embedded_model(graph: Graph) -> None:
    folder = graph.process.base / "models" / "checkpoints"
    (folder / "unused.safetensors").symlink_to(folder / CHECKPOINT)
    graph.refresh()
    workflow = graph.upscale(picture(1, 8, 8), "unused.safetensors", lora=EMBEDDED)
    assert "1" not in graph.run(workflow).executed
    workflow["3"]["inputs"]["lora"] = LORA
    assert "1" in graph.run(workflow).executed


def test_progress_is_one_bar_with_a_preview_at_each_tile(graph: Graph) -> None:
    result = graph.run(graph.upscale(picture(2, 32, 24), **TILED))
    values, totals = zip(*result.progress, strict=True)
    assert set(totals) == {2 * 3 * 6}  # images, stages, tiles of 128 x 96 in tiles of 64 that share 16
    assert values == tuple(range(1, totals[0] + 1))
    assert result.previews == totals[0]


def test_before_and_after_are_pictures_in_the_temp_folder(graph: Graph) -> None:
    image = picture(6, 16, 12)
    result = graph.run(graph.upscale(image, scale=2.0))
    pairs = result.outputs["3"]["dfosd_before_after"]
    assert len(pairs) == 4
    for pair in pairs:
        for file in (pair["before"], pair["after"]):
            assert file["type"] == "temp"
            with Image.open(Path(graph.process.base) / "temp" / file["subfolder"] / file["filename"]) as picture_file:
                assert picture_file.size == (24, 32)
    assert len({pair[which]["filename"] for pair in pairs for which in pair}) == 8
