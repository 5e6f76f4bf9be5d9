"""Each template, and what the first release saved, opened on ComfyUI's page and run there: COMFYUI_PATH, CHROMIUM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from comfy_graph import BASE, EMBEDDED, LORA, Graph
from comfy_process import ROOT
from PIL import Image, ImageChops
from slider_scenario import FRAMES, film, load, missing_nodes, wait_for_page
from support.chromium import Browser

CHROMIUM = os.environ.get("CHROMIUM", "")
TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
SAVED = sorted((Path(__file__).parent / "saved_workflows").glob("*.json"))
"""The templates of the first release, as it had them."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CHROMIUM, reason="CHROMIUM is not set: it names the browser that shows ComfyUI's page"),
]

SMALL = {
    "CheckpointLoaderSimple": {"ckpt_name": BASE},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 1},
    "DFOSDLoadLoRA": {"lora": LORA},
    "ImageCrop": {"width": 16, "height": 16, "x": 20, "y": 8},
    "SolidMask": {"width": 64, "height": 64},
    "FeatherMask": {"left": 8, "top": 8, "right": 8, "bottom": 8},
    "ImageCompositeMasked": {"x": 80, "y": 32},
}
"""What a user would change: files that are there, sizes that a test has time for. A LoRA is another file too."""

RESULTS = {
    "Crop a face and paste it back": {"dfosd_00001_.png": (192, 128)},
    "Old photograph": {},
    "Text to image then upscale": {"dfosd_00001_.png": (256, 256)},
    "Two LoRA strengths side by side": {
        "dfosd_strength_0.5_00001_.png": (192, 128),
        "dfosd_strength_1_00001_.png": (192, 128),
    },
    "Upscale a folder": {"dfosd_00001_.png": (192, 128), "dfosd_00002_.png": (64, 96)},
    "Upscale a photo": {"dfosd_00001_.png": (192, 128)},
    "Upscale a video": {"video/dfosd_00001_.mp4": (128, 96, FRAMES)},
}
"""Files in the output folder. *Old photograph* compares, and saves nothing."""


@pytest.fixture(scope="module")
def page(graph: Graph, base: Path) -> Iterator[Browser]:
    inputs = graph.process.base / "input"
    photo = Image.open(ROOT / "examples" / "photo.png")
    photo.resize((48, 32)).save(inputs / "example.png")
    (inputs / "photos").mkdir()
    photo.resize((48, 32)).save(inputs / "photos" / "a.png")
    photo.resize((16, 24)).save(inputs / "photos" / "b.jpg")
    film(inputs / "clip.mp4")
    with Browser(CHROMIUM, 1600, 1000) as page:
        page.open(graph.process.url)
        wait_for_page(page)
        yield page


def run(page: Browser, graph: Graph, path: Path) -> dict[str, tuple[int, ...]]:
    """Open a workflow and run it; the files it has saved, with width, height and, of films, the number of frames."""
    output, example = graph.process.base / "output", graph.process.base / "input" / "example.png"
    with Image.open(example) as image:  # another picture each time: the host would save the same one only once
        ImageChops.offset(image, 1).save(example)
    for file in list(output.rglob("dfosd_*")):
        file.unlink()
    load(page, json.loads(path.read_text("utf-8")), path.stem)
    missing = missing_nodes(page)
    if missing:
        page.key("Escape")
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")
    page.js(
        f"for (const node of app.graph.nodes) for (const widget of node.widgets ?? []) {{"
        f" const value = ({json.dumps(SMALL)})[node.type]?.[widget.name];"
        f" if (value !== undefined) widget.value = value;"
        f" if (node.type === 'DFOSDUpscale' && widget.name === 'lora' && widget.value !== {json.dumps(EMBEDDED)})"
        f" widget.value = {json.dumps(LORA)} }}"
    )
    page.js(
        "window.outcome = ''; for (const kind of ['success', 'error', 'interrupted'])"
        " app.api.addEventListener('execution_' + kind, ({detail}) =>"
        " window.outcome ||= kind + ' ' + (detail?.exception_message ?? ''))"
    )
    # Of a prompt without a fault, a front end of 2025 keeps `{}`, and returns false for it.
    errors = "JSON.stringify(app.lastNodeErrors)"
    page.js(f"app.queuePrompt(0, 1).then(taken => {{ if (!taken && {errors} !== '{{}}') window.outcome = 'refused' }})")
    page.wait("Boolean(window.outcome)", 600)
    refused: Any = page.js(errors)
    assert page.js("window.outcome.trim()") == "success", f"{refused}\n{graph.process.log[-2000:]}"
    assert refused in ("null", "{}")
    return {file.relative_to(output).as_posix(): size_of(file) for file in sorted(output.rglob("dfosd_*"))}


def size_of(file: Path) -> tuple[int, ...]:
    if file.suffix != ".mp4":
        with Image.open(file) as image:
            return image.size
    video = cv2.VideoCapture(str(file))
    properties = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
    return tuple(int(video.get(which)) for which in properties)


def test_results_of_all_templates_are_known() -> None:
    assert [path.stem for path in TEMPLATES] == list(RESULTS)
    assert {path.stem for path in SAVED} <= set(RESULTS)
    assert SAVED


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_opens_and_runs(page: Browser, graph: Graph, path: Path) -> None:
    found, wanted = run(page, graph, path), RESULTS[path.stem]
    assert list(found) == list(wanted)
    assert sorted(found.values()) == sorted(wanted.values())  # a folder's files come in any order


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_workflow_saved_by_the_first_release_opens_and_runs(page: Browser, graph: Graph, path: Path) -> None:
    assert run(page, graph, path) == RESULTS[path.stem]
