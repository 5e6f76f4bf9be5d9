"""Other methods' files chosen on ComfyUI's running page: COMFYUI_PATH names ComfyUI, CHROMIUM the browser."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from comfy_graph import BASE, EMBEDDED, Graph
from comfy_process import ROOT
from imported_scenario import work
from PIL import Image
from support.diffusers_host import DiffusersHost

CHROMIUM = os.environ.get("CHROMIUM", "")
NAMES = ["osediff.pkl", "OMGSR-S"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not CHROMIUM, reason="CHROMIUM is not set: it names the browser that shows ComfyUI's page"),
]


def workflow(image: str) -> dict[str, Any]:
    """As a user builds it: Load Checkpoint, Load Image, CLIP Text Encode with an empty text."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": BASE}},
        "2": {"class_type": "LoadImage", "inputs": {"image": image}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "3": {
            "class_type": "DFOSDUpscale",
            "inputs": {"image": ["2", 0], "model": ["1", 0], "vae": ["1", 2], "conditioning": ["7", 0], "scale": 2.0},
        },
    }


@pytest.fixture(scope="module")
def seen(graph: Graph, base: Path, twin: DiffusersHost, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `imported_scenario.py` saw."""
    for method in ("osediff", "omgsr"):
        graph.add_peer(method, twin)
    Image.open(ROOT / "examples" / "photo.png").resize((96, 64)).save(graph.process.base / "input" / "example.png")
    shots = tmp_path_factory.mktemp("shots")
    return work(CHROMIUM, graph.process.url, workflow("example.png"), NAMES, shots)


def test_files_are_chosen_in_the_list(seen: dict[str, Any]) -> None:
    assert seen["list"][0] == EMBEDDED
    assert set(NAMES) <= set(seen["list"])
    assert seen["chosen"] == NAMES


def test_line_below_the_picture_says_where_the_lora_comes_from(seen: dict[str, Any], graph: Graph) -> None:
    osediff = (graph.process.base / "models" / "loras" / "osediff.pkl").read_bytes()
    assert seen["notes"][0] == f"OSEDiff. Licence: Apache-2.0. SHA-256: {hashlib.sha256(osediff).hexdigest()[:12]}..."
    assert seen["notes"][1].startswith("OMGSR-S. Licence: none stated. SHA-256: ")
    assert seen["note_is_below"]
    assert seen["reloaded"] == seen["notes"][1]
    assert seen["embedded"] is False


def test_page_has_no_complaint(seen: dict[str, Any]) -> None:
    assert seen["console"] == []
