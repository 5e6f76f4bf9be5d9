"""The before/after slider on ComfyUI's running page: COMFYUI_PATH names ComfyUI, CHROMIUM the browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from comfy_process import ROOT, ComfyProcess
from PIL import Image
from slider_scenario import complaints, film, work
from support.chromium import scripts_of

from dfosd_core.settings import UpscaleSettings

SETTINGS = [field.name for field in fields(UpscaleSettings)]
CHROMIUM = os.environ.get("CHROMIUM", "")
PACK = "comfyui-dfosd"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def host(comfyui: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyProcess]:
    if not CHROMIUM:
        pytest.skip("CHROMIUM is not set: it names the browser that shows ComfyUI's page")
    process = ComfyProcess(tmp_path_factory.mktemp("page"), {PACK: ROOT})
    photo = Image.open(ROOT / "examples" / "photo.png")
    photo.resize((36, 24)).save(process.base / "input" / "example.png")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((36, 24)).save(process.base / "input" / "second.png")
    film(process.base / "input" / "clip.mp4")
    yield process
    process.close()


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes 2.0"])
def seen(host: ComfyProcess, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `slider_scenario.py` saw."""
    seen = work(CHROMIUM, host.url, nodes_2=request.param)
    if seen is None:
        pytest.skip("this ComfyUI's front end has no finished Nodes 2.0")
    return seen


def test_example_workflows_load_without_a_warning(seen: dict[str, Any]) -> None:
    names = {path.stem for path in (ROOT / "example_workflows").glob("*.json")}
    loaded = dict(seen["loaded"])
    if loaded["Upscale a folder"]:  # ComfyUI has a node for that since the end of 2025
        assert loaded["Upscale a folder"] == ["LoadImageDataSetFromFolder"]
        loaded["Upscale a folder"] = 0
    assert loaded == dict.fromkeys({*names, "old"}, 0)


def test_workflow_of_the_first_release_opens_as_it_was(seen: dict[str, Any]) -> None:
    upscale = ["scale", 4, 0, 0, -1, -1, -1, -1, "wavelet", 1, -1, "full", 0, 0, 0, "crop"]
    for kind, values, links in seen["old"]:
        if kind == "DFOSDUpscale":
            assert (values[1:], links) == (upscale, 4)
        else:
            assert (values[1:], links) == ([values[1]], 1)
    assert len(seen["old"]) == 4


def test_size_by_shows_its_inputs_sets_the_others_to_0_and_is_not_saved(seen: dict[str, Any]) -> None:
    found = seen["size_by"]
    assert found["ways"] == ["scale", "long edge", "short edge", "megapixels", "width and height"]
    inputs = [["scale"], ["long_edge"], ["short_edge"], ["megapixels"], ["width", "height", "fit"]]
    assert found["shown"] == [["size_by", *names] for names in [*inputs, inputs[0]]]
    targets = [[0, 0, 0, 0, 0], [2048, 0, 0, 0, 0], [0, 1080, 0, 0, 0], [0, 0, 4, 0, 0], [0, 0, 0, 1920, 1080]]
    for values, wanted in zip(found["saved"], [*targets, targets[0]], strict=True):
        assert values[1:] == [4, *wanted[:2], -1, -1, -1, -1, "wavelet", 1, -1, "full", *wanted[2:], "crop"]
    assert found["no_holes"]
    assert found["old"] == ["long edge", ["size_by", "long_edge"]]
    assert found["sent"].keys() == {"lora", *SETTINGS, "decoder"}
    assert (found["sent"]["long_edge"], found["sent"]["scale"]) == (96, 4)


def test_hosts_preview_is_shown_during_a_run_and_gives_way_to_the_slider(seen: dict[str, Any]) -> None:
    assert seen["previews"] > 0
    assert seen["left_preview"] is False


def test_slider_has_room(seen: dict[str, Any]) -> None:
    """In pixels of the window; Nodes 2.0 gave it 12 by 8."""
    assert seen["room"][0] > 200
    assert seen["room"][1] > 100


def test_line_follows_mouse_finger_and_keys(seen: dict[str, Any]) -> None:
    move = seen["move"]
    assert move["start"] == pytest.approx(50)
    assert move["clicked"] == pytest.approx(52, abs=1)
    assert move["dragged"] == pytest.approx(30, abs=1)
    assert move["swiped"] == pytest.approx(70, abs=1)
    assert move["keys"] == pytest.approx(move["swiped"] + 8)
    assert (move["Home"], move["End"]) == (0, 100)
    assert move["pictures_differ"]
    assert move["beyond"] == 0
    assert move["node_stayed"]


def test_images_of_a_batch_are_pages(seen: dict[str, Any]) -> None:
    assert seen["pages"] == ["1 / 2", "2 / 2"]


def test_picture_keeps_its_shape_in_a_resized_node(seen: dict[str, Any]) -> None:
    larger, shape, shape_before = seen["survive"]["resized"]
    assert larger > 1.2
    assert shape == pytest.approx(shape_before, rel=0.01)


def test_slider_survives_undo_another_workflow_and_a_new_page(seen: dict[str, Any]) -> None:
    survive = seen["survive"]
    assert {key: survive[key] for key in ("undone", "back", "reloaded")} == {"undone": 2, "back": 2, "reloaded": 2}


def test_slider_goes_with_its_node(seen: dict[str, Any]) -> None:
    assert (seen["survive"]["blank"], seen["survive"]["removed"]) == (0, 0)


def test_slider_adds_nothing_to_the_workflow(seen: dict[str, Any]) -> None:
    assert seen["survive"]["values"][1:] == [4, 0, 0, -1, -1, -1, -1, "wavelet", 1, -1, "full", 0, 0, 0, "crop"]


def test_page_speaks_chinese(seen: dict[str, Any]) -> None:
    chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    assert seen["survive"]["chinese_title"] == chinese["DFOSDUpscale"]["display_name"]
    assert seen["survive"]["chinese"] == "放大前"


def test_script_asks_for_pictures_only_and_causes_no_message(seen: dict[str, Any]) -> None:
    # ComfyUI's own page asks there for news, and for the sizes of models that a workflow names.
    assert set(seen["foreign"]) <= {"api.comfy.org", "huggingface.co"}
    assert seen["pictures"] == ["/api/view"]
    assert seen["console"] == []


def test_hosts_own_warnings_are_no_complaints_about_us() -> None:
    own = "warning: input.link is deprecated. [http://a/assets/core.js, http://a/extensions/comfyui-dfosd/js/after.js]"
    named = "warning: DFOSDUpscale: unknown option [http://a/assets/core.js]"
    hosts = "warning: input.link is deprecated. [http://a/assets/core.js]"
    error = "exception: TypeError at http://a/assets/core.js"
    assert complaints([hosts, own, named, error, own]) == [own, named, error]


def test_scripts_of_a_call_include_those_that_started_it() -> None:
    begun: dict[str, Any] = {"callFrames": [{"url": "http://a/extensions/comfyui-dfosd/js/after.js"}]}
    stack = {"callFrames": [{"url": "http://a/assets/core.js"}, {"url": ""}], "parent": begun}
    assert scripts_of(stack) == ["http://a/assets/core.js", "http://a/extensions/comfyui-dfosd/js/after.js"]
    assert scripts_of(None) == []


def test_english_texts_are_the_nodes_own(host: ComfyProcess) -> None:
    english = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    assert english.keys() == host.nodes.keys()
    for name, texts in english.items():
        facts = host.nodes[name]
        inputs = {**facts["input"]["required"], **facts["input"].get("optional", {})}
        assert texts["display_name"] == facts["display_name"]
        assert texts["description"] == facts["description"]
        assert {key: text["tooltip"] for key, text in texts["inputs"].items()} == {
            key: options[1]["tooltip"] for key, options in inputs.items()
        }
        assert [text["tooltip"] for text in texts["outputs"].values()] == facts["output_tooltips"]
