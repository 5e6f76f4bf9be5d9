"""The pack under any folder name, beside others, cheap to import; and its nodes as ComfyUI lists them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy_graph import EMBEDDED, LORA, VAE_LORA, Graph, picture
from comfy_process import HERE, ROOT, ComfyProcess

from dfosd_core.color_fix import fix_color

FOLDER_NAMES = ("comfyui-dfosd", "DFOSD", "x.y")
HOSTS_OWN = {"torch", "numpy", "PIL", "safetensors", "einops", "comfy", "folder_paths"}


@pytest.fixture(scope="module")
def crowded(comfyui: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyProcess]:
    """The pack three times, and another with a `nodes` package that pushes itself to the front of the path."""
    other = tmp_path_factory.mktemp("packs") / "other"
    (other / "nodes").mkdir(parents=True)
    (other / "__init__.py").write_text(
        "import sys, os\n"
        "sys.path.insert(0, os.path.dirname(__file__))\n"
        "from .nodes import Other\n"
        "NODE_CLASS_MAPPINGS = {'OtherNode': Other}\n"
    )
    (other / "nodes" / "__init__.py").write_text(
        "class Other:\n"
        "    RETURN_TYPES, FUNCTION, CATEGORY = (), 'run', 'tests'\n"
        "    @classmethod\n"
        "    def INPUT_TYPES(cls):\n"
        "        return {'required': {}}\n"
    )
    process = ComfyProcess(
        tmp_path_factory.mktemp("crowded"),
        {**dict.fromkeys(FOLDER_NAMES, ROOT), "a_other": other, "zz_other": other, "probe_pack": HERE / "probe_pack"},
    )
    yield process
    process.close()


def test_pack_loads_under_any_folder_name_beside_a_pack_with_nodes(crowded: ComfyProcess) -> None:
    for name in (*FOLDER_NAMES, "a_other", "zz_other"):
        assert f"custom_nodes/{name}\n" in crowded.log
    for trouble in ("IMPORT FAILED", "Cannot import", "due to the lack of"):
        assert trouble not in crowded.log
    for node in ("DFOSDUpscale", "DFOSDLoadLoRA", "DFOSDColorFix", "OtherNode"):
        assert node in crowded.nodes
    graph = Graph(crowded, crowded.base)
    found = graph.output(graph.upscale(picture(1, 8, 8), lora=EMBEDDED, model=None, vae=None))
    assert found.shape == (1, 32, 32, 3)


def test_import_is_cheap_and_names_no_package_beyond_the_hosts_own(crowded: ComfyProcess) -> None:
    result = crowded.run({"1": {"class_type": "ProbeImport", "inputs": {"path": str(ROOT)}}})
    assert result.status == "success", result.error
    facts = result.outputs["1"]
    assert set(facts["packages"]) <= HOSTS_OWN
    assert facts["seconds"][0] < 0.3
    assert facts["nodes"] == ["DFOSDUpscale", "DFOSDLoadLoRA", "DFOSDColorFix"]


def test_ids_inputs_and_their_order_are_the_frozen_ones(crowded: ComfyProcess) -> None:
    """Saved workflows hold widget values by position."""
    order = {name: facts["input_order"] for name, facts in crowded.nodes.items() if name.startswith("DFOSD")}
    widgets = ["scale", "long_edge", "short_edge", "unet_tile", "unet_overlap", "vae_tile", "vae_overlap"]
    assert order == {
        "DFOSDUpscale": {
            "required": ["image", "lora", *widgets, "color_fix", "strength"],
            "optional": [
                *("model", "vae", "conditioning", "lora_settings"),
                *("pixel_strength", "decoder", "mask", "megapixels", "width", "height", "fit"),
            ],
            "hidden": ["unique_id", "dynprompt"],
        },
        "DFOSDLoadLoRA": {"required": ["model", "lora", "strength"], "optional": ["conditioning"]},
        "DFOSDColorFix": {"required": ["image", "reference", "method"]},
    }
    for name in order:
        facts = crowded.nodes[name]
        assert facts["category"] == "image/upscaling"
        assert facts["description"]
        assert len(facts["output_tooltips"]) == len(facts["output"])
        for group in ("required", "optional"):
            for options in facts["input"].get(group, {}).values():
                assert options[1]["tooltip"].endswith(".")


def test_both_folders_are_searched_after_the_embedded_model(graph: Graph) -> None:
    graph.refresh()
    choices = graph.process.nodes["DFOSDUpscale"]["input"]["required"]["lora"][0]
    assert choices[0] == EMBEDDED
    assert choices.index(LORA) < choices.index(VAE_LORA)  # models/dfosd, then models/loras
    assert graph.process.nodes["DFOSDLoadLoRA"]["input"]["required"]["lora"][0] == choices[1:]


def color_fix(graph: Graph, images: int, references: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    image, reference = picture(images, 24, 32, channels=4), picture(references, 12, 16)
    inputs = {"image": ["2", 0], "reference": ["6", 0], "method": "adain"}
    workflow = {
        **graph.upscale(image),
        "6": graph.image(reference, "reference"),
        "3": {"class_type": "DFOSDColorFix", "inputs": inputs},
    }
    return image, reference, workflow


def test_color_fix_node_is_the_pipelines_fix_and_keeps_alpha(graph: Graph) -> None:
    image, reference, workflow = color_fix(graph, 2, 1)
    found = graph.output(workflow)
    assert torch.equal(found[..., 3], image[..., 3])
    like = torch.nn.functional.interpolate(
        reference.movedim(-1, 1), size=(24, 32), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    for i in range(2):
        expected = fix_color("adain", image[i : i + 1, ..., :3].movedim(-1, 1), like).clamp(0, 1)
        torch.testing.assert_close(found[i : i + 1, ..., :3].movedim(-1, 1), expected, rtol=0, atol=1e-5)


def test_color_fix_refuses_another_number_of_references(graph: Graph) -> None:
    result = graph.run(color_fix(graph, 3, 2)[2])
    assert "Expected one reference image or 3, one for each image, found 2" in result.error
