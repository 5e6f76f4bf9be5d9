"""What ComfyUI's page reads of the pack: texts, help, example workflows, script. No ComfyUI is needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from comfy_process import ROOT
from PIL import Image

from dfosd_core.settings import UpscaleSettings

SETTINGS = {field.name: field for field in fields(UpscaleSettings)}
SIZES = ["megapixels", "width", "height", "fit"]
LATER = ["pixel_strength", *SIZES]
"""Came after the first release, so they stand behind all others."""
TARGETS = ["long_edge", "short_edge", "megapixels", "width", "height"]
FIRST = [name for name in SETTINGS if name not in LATER]
NODES = {
    "DFOSDUpscale": [
        *("image", "lora", *FIRST, "model", "vae", "conditioning", "lora_settings"),
        *("pixel_strength", "decoder", "mask", *SIZES),
    ],
    "DFOSDLoadLoRA": ["model", "lora", "strength", "conditioning"],
    "DFOSDColorFix": ["image", "reference", "method"],
}
"""Their inputs. `test_comfy_loading.py` holds the real nodes to these."""
OUTPUTS = {"DFOSDUpscale": 1, "DFOSDLoadLoRA": 4, "DFOSDColorFix": 1}
WIDGETS = {
    "DFOSDUpscale": ["lora", *FIRST, "pixel_strength", "decoder", *SIZES],
    "DFOSDLoadLoRA": ["lora", "strength"],
    "DFOSDColorFix": ["color_fix"],
}
LANGUAGES = ("en", "zh")
SCRIPTS = sorted((ROOT / "web" / "js").glob("*.js"))
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
NODE_JS = shutil.which("node")
needs_node_js = pytest.mark.skipif(NODE_JS is None, reason="node (JavaScript) is not installed")


def locale(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def help_page(node: str, language: str | None = None) -> str:
    name = f"{node}/{language}.md" if language else f"{node}.md"
    return (ROOT / "web" / "docs" / name).read_text("utf-8")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_has_name_and_tooltip(language: str) -> None:
    texts = locale(language)
    assert {name: list(text["inputs"]) for name, text in texts.items()} == NODES
    assert {name: len(text["outputs"]) for name, text in texts.items()} == OUTPUTS
    for text in texts.values():
        assert text["display_name"]
        assert text["description"]
        for slot in (*text["inputs"].values(), *text["outputs"].values()):
            assert set(slot) == {"name", "tooltip"}
            assert all(slot.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_what_the_page_takes_for_a_placeholder(language: str) -> None:
    texts = (ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8")
    values = re.findall(r'": "(.*)"', texts)
    assert len(values) > 50
    assert [value for value in values if re.search(r"[{}@|]", value)] == []


def test_english_tooltips_are_the_settings_help() -> None:
    tooltips = {name: text["tooltip"] for name, text in locale("en")["DFOSDUpscale"]["inputs"].items()}
    for name, setting in SETTINGS.items():
        assert tooltips[name].startswith(setting.metadata["help"].removesuffix("Default: automatic."))


@pytest.mark.parametrize("node", NODES)
def test_help_page_names_every_input(node: str) -> None:
    assert help_page(node) == help_page(node, "en")
    for language in LANGUAGES:
        text = locale(language)[node]
        page = help_page(node, language)
        assert page.startswith(f"# {text['display_name']}\n")
        named = re.split(r"[,、] ?", ", ".join(re.findall(r"^\| ([^|]+?) \|", page, re.MULTILINE)))
        assert [slot["name"] for slot in text["inputs"].values() if slot["name"] not in named] == []


@pytest.mark.parametrize("path", ["web/docs/DFOSDUpscale.md", "web/docs/DFOSDUpscale/zh.md", "docs/comfyui.md"])
def test_tables_give_the_settings_defaults(path: str) -> None:
    names = locale("zh" if "zh" in path else "en")["DFOSDUpscale"]["inputs"]
    rows = re.findall(r"^\| ([^|]+?) \| ([\w.-]+) \|", (ROOT / path).read_text("utf-8"), re.MULTILINE)
    stated = {name: value for cell, value in rows for name in cell.split(", ")}
    for name, setting in SETTINGS.items():
        default = setting.default
        if default is None:
            default = 0 if name in TARGETS else -1
        assert stated[names[name]["name"]] == f"{default}".removesuffix(".0")


@pytest.mark.parametrize("path", ["docs/comfyui.md", "web/docs/DFOSDUpscale.md"])
def test_linked_files_exist(path: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / path).read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / path).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_example_workflow_fits_the_nodes(path: Path) -> None:
    workflow = json.loads(path.read_text("utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    ours = [node for node in nodes.values() if node["type"].startswith("DFOSD")]
    assert ours
    for node in ours:
        assert {slot["name"] for slot in node["inputs"]} == set(NODES[node["type"]])
        assert len(node["outputs"]) == OUTPUTS[node["type"]]
        values = dict(zip(WIDGETS[node["type"]], node["widgets_values"], strict=True))
        targets = dict.fromkeys(TARGETS, 0)
        assert values.pop("decoder", "full") == "full"
        given = {k: v for k, v in values.items() if k != "lora" and v != targets.get(k, -1)}
        assert UpscaleSettings(**given).scale == (2 if "video" in path.stem else 4)
    for number, start, start_slot, end, end_slot, kind in workflow["links"]:
        assert number in nodes[start]["outputs"][start_slot]["links"]
        assert nodes[end]["inputs"][end_slot]["link"] == number
        assert nodes[start]["outputs"][start_slot]["type"] == nodes[end]["inputs"][end_slot]["type"] == kind


def test_example_workflows_have_small_pictures() -> None:
    assert len(WORKFLOWS) == 7
    for path in WORKFLOWS:
        assert path.with_suffix(".jpg").stat().st_size < 60_000
        with Image.open(path.with_suffix(".jpg")) as picture:
            assert (picture.format, picture.size) == ("JPEG", (480, 480))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_asks_the_network_for_nothing(path: Path) -> None:
    text = path.read_text("utf-8")
    for asking in ("http:", "https:", "fetch", "XMLHttpRequest", "WebSocket", "sendBeacon", "import(", "eval("):
        assert asking not in text
    imported = set(re.findall(r'from "([^"]+)"', text))
    ours = {f"./{script.name}" for script in SCRIPTS}
    assert imported <= {"../../../scripts/api.js", "../../../scripts/app.js", *ours}


@needs_node_js
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(path: Path, tmp_path: Path) -> None:
    module = tmp_path / f"{path.stem}.mjs"
    module.write_text(path.read_text("utf-8"), "utf-8")
    assert run_node_js("--check", str(module)) == ""


@needs_node_js
def test_keys_and_pages_stay_in_range(tmp_path: Path) -> None:
    module = tmp_path / "before_after.mjs"
    module.write_text((ROOT / "web" / "js" / "before_after.js").read_text("utf-8"), "utf-8")
    check = tmp_path / "check.mjs"
    check.write_text(
        "import { fraction, pageAfter, positionAfterKey as key } from './before_after.mjs'\n"
        "console.log(JSON.stringify([\n"
        "  fraction(-0.5), fraction(0.25), fraction(7),\n"
        "  key('ArrowLeft', 0.5), key('ArrowUp', 0.5), key('ArrowRight', 0.5, true), key('ArrowLeft', 0.01),\n"
        "  key('Home', 0.5), key('End', 0.5), key('a', 0.5),\n"
        "  pageAfter(0, -1, 3), pageAfter(2, 1, 3), pageAfter(0, 1, 1)]))\n",
        "utf-8",
    )
    found = json.loads(run_node_js(str(check)))
    assert found == [0, 0.25, 1, 0.48, 0.52, 0.6, 0, 0, 1, None, 2, 0, 0]


@needs_node_js
def test_size_is_by_what_is_given_and_nothing_given_is_hidden(tmp_path: Path) -> None:
    text = (ROOT / "web" / "js" / "size_by.js").read_text("utf-8")
    app = 'import { app } from "../../../scripts/app.js"'
    assert app in text
    text = text.replace(app, "const app = { registerExtension() {} }").replace("./after.js", "./after.mjs")
    (tmp_path / "size_by.mjs").write_text(text, "utf-8")
    (tmp_path / "after.mjs").write_text((ROOT / "web" / "js" / "after.js").read_text("utf-8"), "utf-8")
    check = tmp_path / "check.mjs"
    check.write_text(
        "import { WAYS, hiddenFor, wayOf } from './size_by.mjs'\n"
        "const seen = (...given) => {\n"
        "  const way = wayOf((name) => given.includes(name)), hidden = hiddenFor(way, (name) => given.includes(name))\n"
        "  return [way, Object.values(WAYS).flat().filter((name) => !hidden.includes(name)).sort()]\n"
        "}\n"
        "console.log(JSON.stringify([seen(), seen('scale'), seen('long_edge'), seen('megapixels'),"
        " seen('width', 'height'), seen('width'), seen('long_edge', 'width')]))\n",
        "utf-8",
    )
    exact = ["fit", "height", "width"]
    assert json.loads(run_node_js(str(check))) == [
        ["scale", ["scale"]],
        ["scale", ["scale"]],
        ["long_edge", ["long_edge"]],
        ["megapixels", ["megapixels"]],
        ["exact", exact],
        ["exact", exact],
        ["exact", sorted([*exact, "long_edge"])],
    ]


def run_node_js(*arguments: str) -> str:
    assert NODE_JS is not None
    done = subprocess.run([NODE_JS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_registry_metadata_names_no_web_folder() -> None:
    """WEB_DIRECTORY names it; twice would load the script twice."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = re.search(r"^\[tool\.comfy\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    keys = dict(re.findall(r'^([\w-]+) = "(.*)"$', section[1], re.MULTILINE))
    assert keys.keys() == {"PublisherId", "DisplayName", "Icon", "requires-comfyui"}
    assert (ROOT / keys["Icon"]).is_file()
    assert re.search(r'^version = "\d+\.\d+\.\d+"$', text, re.MULTILINE)
    assert "Operating System :: OS Independent" in text
    assert "Environment ::" not in text
