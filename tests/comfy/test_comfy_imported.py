"""Other methods' LoRAs, as they are, in the real ComfyUI: the image of the standalone program and of their formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_graph import BASE, Graph, fingerprint, picture
from safetensors.torch import load_file
from support.diffusers_host import DiffusersHost
from support.peers import PEERS, Peer
from torch import Tensor

from dfosd_core.models import load_models
from dfosd_core.networks.reading import read_empty_prompt
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOLERANCE = 2e-3
PROMPT = {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}}


@pytest.fixture(scope="module", params=PEERS)
def added(request: pytest.FixtureRequest, graph: Graph, twin: DiffusersHost) -> tuple[Peer, Path]:
    return graph.add_peer(request.param, twin)


@pytest.fixture(scope="module")
def peer(added: tuple[Peer, Path]) -> Peer:
    return added[0]


@pytest.fixture(scope="module")
def file(added: tuple[Peer, Path]) -> Path:
    return added[1]


def graph_with_prompt(graph: Graph, image: Tensor, name: str, **more: Any) -> dict[str, Any]:
    workflow = graph.upscale(image, BASE, lora=name, conditioning=["7", 0], **more)
    return {**workflow, "7": PROMPT}


def test_empty_text_gives_the_embedding_of_the_standalone_program(graph: Graph, base: Path) -> None:
    def embedding(text: str) -> Tensor:
        path = graph.folder / "prompt.safetensors"
        probe = {"class_type": "ProbeSaveConditioning", "inputs": {"conditioning": ["7", 0], "path": str(path)}}
        loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": BASE}}
        prompt = {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 1]}}
        result = graph.run({"1": loader, "7": prompt, "9": probe})
        assert result.status == "success", result.error
        return load_file(path)["embedding"]

    expected = read_empty_prompt(base, 1024)
    assert expected.std() > 0.5
    torch.testing.assert_close(embedding(""), expected, rtol=0, atol=1e-4)
    assert (embedding("a dog") - expected).abs().max() > 0.1


def test_file_is_in_the_list(file: Path, graph: Graph) -> None:
    for node in ("DFOSDUpscale", "DFOSDLoadLoRA"):
        choices = graph.process.nodes[node]["input"]["required"]["lora"][0]
        assert file.name in choices
        assert not any("adapter" in choice for choice in choices)


def test_image_is_the_standalone_programs_and_the_methods_own(peer: Peer, file: Path, base: Path, graph: Graph) -> None:
    image = picture(1, 24, 32)
    before = fingerprint(graph, BASE)
    host, lora = load_models(ModelChoice(base=str(base), lora=str(file), dtype="float32"), torch.device("cpu"))
    cases: list[dict[str, Any]] = [{"color_fix": "none"}, {"strength": 0.6}]
    if peer.source == "PiSA-SR":
        cases.append({"strength": 1.2, "pixel_strength": 0.5, "color_fix": "none"})  # in two passes
    for case in cases:
        expected = upscale(image, host, lora, UpscaleSettings(scale=2.0, **case))
        assert ((expected > 0) & (expected < 1)).float().mean() > 0.3
        for card in (False, True):
            found = graph.output(graph_with_prompt(graph, image, file.name, card=card, scale=2.0, **case))
            torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
        if case is cases[0]:
            x_lr = torch.nn.functional.interpolate(image.movedim(-1, 1), (48, 64), mode="bicubic", antialias=True)
            own = peer.image(x_lr.clamp(0, 1) * 2 - 1, lora.prompt_embeds)
            torch.testing.assert_close(expected, (own.movedim(1, -1) / 2 + 0.5).clamp(0, 1), rtol=0, atol=TOLERANCE)
    plain = upscale(image, host, lora, UpscaleSettings(scale=2.0, strength=0.0, color_fix="none"))
    whole = upscale(image, host, lora, UpscaleSettings(scale=2.0, color_fix="none"))
    assert (plain - whole).abs().max() > 100 * TOLERANCE
    assert fingerprint(graph, BASE) == before


def test_load_lora_gives_the_same_image(peer: Peer, file: Path, base: Path, graph: Graph) -> None:
    image = picture(1, 24, 32)
    alone = graph_with_prompt(graph, image, file.name, scale=2.0, strength=0.6)
    result = graph.run(alone)
    assert result.status == "success", result.error
    assert result.outputs["3"]["dfosd_origin"][0].startswith(f"{peer.source}. Licence: ")
    expected = load_file(graph.folder / "out.safetensors")["image"]
    inputs = {"model": ["1", 0], "lora": file.name, "strength": 0.6, "conditioning": ["7", 0]}
    chain = graph.upscale(image, BASE, scale=2.0, model=["5", 0], lora_settings=["5", 3])
    found = graph.output({**chain, "5": {"class_type": "DFOSDLoadLoRA", "inputs": inputs}, "7": PROMPT})
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_without_a_conditioning_and_on_the_v_model_it_is_refused_in_one_line(
    peer: Peer, file: Path, base: Path, graph: Graph
) -> None:
    result = graph.run(graph.upscale(picture(1, 8, 8), BASE, lora=file.name))
    assert f"Expected a conditioning for the LoRA of {peer.source}" in result.error
    assert "Connect CLIP Text Encode with an empty text" in result.error
    workflow = graph_with_prompt(graph, picture(1, 8, 8), file.name, model=["5", 0])
    inputs = {"model": ["1", 0], "sampling": "v_prediction", "zsnr": False}
    result = graph.run({**workflow, "5": {"class_type": "ModelSamplingDiscrete", "inputs": inputs}})
    assert "2.1-base, the 512 px epsilon model" in result.error
    assert "\n" not in result.error
