"""Works the before/after slider on ComfyUI's running page, and says what it saw.

The server's input folder must hold example.png, second.png and `film`'s clip.mp4.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from support.chromium import Browser

EXAMPLES = Path(__file__).parents[2] / "example_workflows"
NODE = "app.graph.nodes.find(node => node.type === 'DFOSDUpscale')"
STAGE = "document.querySelector('.dfosd-compare .stage')"
IMAGES = "document.querySelectorAll('.dfosd-compare img').length"
SLIDERS = "document.querySelectorAll('.dfosd-compare').length"
DIALOGS = "document.querySelectorAll('[role=dialog]').length"
WARNINGS = "document.querySelectorAll('[role=dialog], .p-toast-message').length"
PREVIEW = f"({NODE}.imgs?.length || document.querySelector('.lg-node-widgets ~ img')?.checkVisibility())"
"""The host's own picture of a run: drawn on the canvas, in Nodes 2.0 as HTML behind the widgets."""
NODES_2 = "Comfy.VueNodes.Enabled"
FIRST_NODES_2 = (1, 33)
"""The front end's version; before, the setting is an unfinished experiment."""
TABS = "[...document.querySelectorAll('.workflow-tabs .p-togglebutton, .workflow-tabs [role=tab]')]"
"""Of the open workflows; the second kind since front end 1.58."""
WORKFLOWS = "app.extensionManager.workflow"
FRAMES = 6
LONGEST = 300
"""Seconds for anything, on a busy machine."""


def film(path: Path) -> None:
    """A clip of `FRAMES` frames, 64x48."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8, (64, 48))
    for i in range(FRAMES):
        writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    writer.release()


def widget(name: str) -> str:
    """A widget of the node."""
    return f"{NODE}.widgets.find(widget => widget.name === '{name}')"


def example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))


def first_release(name: str) -> dict[str, Any]:
    """The template as the first release saved it: without the inputs that came later."""
    workflow = example(name)
    for node in workflow["nodes"]:
        later = {
            "DFOSDUpscale": ["pixel_strength", "decoder", "mask", "megapixels", "width", "height", "fit"],
            "DFOSDLoadLoRA": ["conditioning"],
        }
        node["inputs"] = [slot for slot in node["inputs"] if slot["name"] not in later.get(node["type"], [])]
        if node["type"] == "DFOSDUpscale":
            assert [node["widgets_values"].pop() for _ in range(6)] == ["crop", 0, 0, 0, "full", -1]
    return workflow


def wait_for_page(page: Browser) -> None:
    """Until it has opened the last workflow, or an empty one and a dialog, and has loaded all that comes behind."""
    page.wait("Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types?.DFOSDUpscale)")
    page.wait(f"Boolean({WORKFLOWS}.activeWorkflow)")
    settle(page)
    if page.js(DIALOGS):
        page.key("Escape")
    page.wait(f"{DIALOGS} === 0")
    page.js("LiteGraph.alwaysRepeatWarnings = true")  # or the first caller's warning would stand for all


def complaints(console: list[str]) -> list[str]:
    """All errors, and those warnings that our scripts led to or that name our nodes, each once.

    Front end 1.58 warns of its own calls too; the console's lines end with the scripts that a call came through.
    """
    return [line for line in dict.fromkeys(console) if not line.startswith("warning: ") or "dfosd" in line.lower()]


def settle(page: Browser) -> None:
    """Until the page has been idle for a second, and awaits nothing of its server: it says nowhere when it is done."""
    origin: str = page.js("location.origin")
    quiet_since, end = time.monotonic(), time.monotonic() + LONGEST
    while time.monotonic() < quiet_since + 1:
        # The page calls back when it has nothing to do, so a second lasts longer on a busy machine.
        page.js("new Promise((done) => requestIdleCallback(() => setTimeout(done, 100)))")
        if any(address.startswith(origin) for address in page.awaited.values()):
            quiet_since = time.monotonic()
        assert time.monotonic() < end, f"the page still awaits {sorted(page.awaited.values())}"


def load(page: Browser, workflow: dict[str, Any], name: str) -> None:
    # Not awaited: of a fresh page in Nodes 2.0 the promise is sometimes forgotten, though the workflow is opened.
    page.js(f"void app.loadGraphData({json.dumps(workflow)}, true, true, {json.dumps(name)})")
    settle(page)
    count = len(workflow["nodes"])
    assert ends_at(page, count, "app.graph.nodes.length") == count
    page.js("app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [60, 20]; app.canvas.setDirty(true, true)")
    settle(page)


def open_tab(page: Browser, name: str) -> None:
    """With the mouse: the tabs of front end 1.58 answer to the press of its button, not to a click."""
    x, y = page.js(
        f"(() => {{ const tab = {TABS}.find(tab => tab.textContent.includes({json.dumps(name)}));"
        " tab.scrollIntoView(); const b = tab.getBoundingClientRect();"
        " return [b.x + b.width / 3, b.y + b.height / 2] })()"
    )
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)


def missing_nodes(page: Browser) -> list[str]:
    """Kinds of nodes in the open workflow that this ComfyUI does not have."""
    known = "window.LiteGraph.registered_node_types"
    return page.js(f"[...new Set(app.graph.nodes.map(node => node.type))].filter(type => !(type in {known}))")


def ends_at(page: Browser, wanted: object, expression: str) -> Any:
    """The expression's value when it is the wanted one, or what it is after a long time."""
    end = time.monotonic() + LONGEST / 2
    value = page.js(expression)
    while value != wanted and time.monotonic() < end:
        time.sleep(0.1)
        value = page.js(expression)
    return value


def box(page: Browser) -> list[float]:
    """Left, top, width, height of the picture in the window."""
    return page.js(f"(() => {{ const b = {STAGE}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()")


def position(page: Browser) -> float:
    """Where the picture before is cut off, in percent of the width, as the browser draws it."""
    clip: str = page.js("getComputedStyle(document.querySelector('.dfosd-compare .before')).clipPath")
    return 100 - float(clip.split("calc(100% - ")[1].split("%")[0] if "calc" in clip else clip.split()[1].rstrip("%"))


def run(page: Browser) -> int:
    """Run the open workflow; returns in how many looks at the node the host's own preview was there."""
    previews = 0
    page.js("window.done = false; app.api.addEventListener('execution_success', () => window.done = true)")
    page.js("app.queuePrompt(0, 1)")
    end = time.monotonic() + LONGEST
    while not page.js("window.done") and time.monotonic() < end:
        previews += bool(page.js(f"{PREVIEW} && {STAGE}?.checkVisibility() !== true"))
        time.sleep(0.1)
    page.wait(f"{STAGE}?.checkVisibility()")
    settle(page)
    return previews


def size_by(page: Browser) -> dict[str, Any]:
    """The widget that chooses what the size is given by: what it shows, sets, saves, and sends."""
    ways = page.js(f"{widget('size_by')}.options.values")
    seen: dict[str, Any] = {"ways": ways}
    for way in [*ways, ways[0]]:
        page.js(f"(w => {{ w.value = '{way}'; w.callback('{way}') }})({widget('size_by')})")
        page.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seen.setdefault("shown", []).append(shown_sizes(page))
        seen.setdefault("saved", []).append(page.js(f"{NODE}.serialize().widgets_values"))
    shown = f"{NODE}.widgets.filter(widget => !widget.hidden)"
    seen["no_holes"] = ends_at(
        page,
        True,
        f"{shown}.every((widget, i, all) => !i || widget.y - all[i - 1].y <= LiteGraph.NODE_WIDGET_HEIGHT + 4)",
    )
    old = example("Upscale a photo")
    upscale = next(node for node in old["nodes"] if node["type"] == "DFOSDUpscale")
    upscale["widgets_values"][2] = 96  # the long edge, as in a workflow from before
    load(page, old, "edge")
    seen["old"] = [page.js(f"{widget('size_by')}.value"), shown_sizes(page)]
    prompt = "app.graphToPrompt().then(({output}) => Object.values(output).find(n => n.class_type === 'DFOSDUpscale'))"
    inputs = page.js(f"{prompt}.then(node => node.inputs)")
    seen["sent"] = {name: value for name, value in inputs.items() if not isinstance(value, list)}
    return seen


def shown_sizes(page: Browser) -> list[str]:
    """Names of the widgets for the size that a user sees; in Nodes 2.0, the page's own elements."""
    names = ["size_by", "scale", "long_edge", "short_edge", "megapixels", "width", "height", "fit"]
    labels = page.js(
        "[...document.querySelectorAll('.lg-node-widget')].filter(e => e.checkVisibility()).map(e => e.textContent)"
    )
    if not labels:
        return [name for name in names if page.js(f"{NODE}.isWidgetVisible({widget(name)})")]
    return [name for name in names if any(label.startswith(name.replace("_", " ")) for label in labels)]


def move(page: Browser) -> dict[str, Any]:
    """Mouse, finger and keys on the slider of the open workflow."""
    left, top, width, height = box(page)

    def at(part: float) -> tuple[float, float]:
        return left + width * part, top + height * 0.4

    seen: dict[str, Any] = {"start": position(page)}
    shots = {"left": b"", "right": b""}
    page.drag(at(0.5), at(0.5))
    page.key("ArrowRight")
    seen["clicked"] = position(page)
    page.drag(at(0.5), at(0.3))
    seen["dragged"] = position(page)
    page.swipe(at(0.3), at(0.7))
    seen["swiped"] = position(page)
    page.key("ArrowLeft")
    page.key("ArrowRight", is_shifted=True)
    seen["keys"] = position(page)
    for key, side in (("Home", "left"), ("End", "right")):
        page.key(key)
        shots[side] = page.pixels(left, top, width, height)
        seen[key] = position(page)
    seen["pictures_differ"] = shots["left"] != shots["right"]
    page.drag(at(0.5), (left - 40, top + height * 0.4))
    seen["beyond"] = position(page)
    seen["node_stayed"] = page.js(f"[...{NODE}.pos].join() === '400,130'")
    return seen


def speak(page: Browser, language: str) -> None:
    """The server keeps the language for the next browser too."""
    if page.js("app.extensionManager.setting.get('Comfy.Locale')") == language:
        return
    page.js(f"app.extensionManager.setting.set('Comfy.Locale', '{language}')")
    settle(page)
    page.reload()  # today's front end speaks another language only then
    wait_for_page(page)


def survive(page: Browser) -> dict[str, Any]:
    """Resizing, undo, another workflow, loading the page anew, removal."""
    seen: dict[str, Any] = {}
    before = box(page)
    page.js(f"{NODE}.setSize([600, 800]), app.canvas.setDirty(true, true)")
    page.wait(f"{STAGE}.getBoundingClientRect().width > {before[2]}")
    after = box(page)
    seen["resized"] = after[2] / before[2], after[2] / after[3], before[2] / before[3]
    seen["values"] = page.js(f"{NODE}.serialize().widgets_values")
    tracker = f"{WORKFLOWS}.activeWorkflow.changeTracker"
    page.js(f"{tracker}.checkState(), {widget('scale')}.value = 2.5, {tracker}.checkState(), {tracker}.undo()")
    page.wait(f"{widget('scale')}.value === 4")
    seen["undone"] = ends_at(page, 2, IMAGES)
    page.js("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    seen["blank"] = ends_at(page, 0, SLIDERS)
    open_tab(page, "two")
    seen["back"] = ends_at(page, 2, IMAGES)
    speak(page, "zh")
    seen["reloaded"] = ends_at(page, 2, IMAGES)
    seen["chinese"] = page.js("document.querySelector('.dfosd-compare .before .tag').textContent")
    seen["chinese_title"] = page.js(f"{NODE}.constructor.title")
    page.js(f"app.graph.remove({NODE})")
    seen["removed"] = ends_at(page, 0, SLIDERS)
    return seen


def work(program: str, url: str, *, nodes_2: bool) -> dict[str, Any] | None:
    """The whole scenario in a fresh browser; None where nodes_2 is asked for and the front end has no such nodes."""
    with Browser(program, 1600, 1000) as page:
        page.open(url)
        wait_for_page(page)
        version = page.js("window.__COMFYUI_FRONTEND_VERSION__").split(".")
        if tuple(map(int, version[:2])) >= FIRST_NODES_2:
            page.js(f"app.extensionManager.setting.set('{NODES_2}', {json.dumps(nodes_2)})")
        elif nodes_2:
            return None
        speak(page, "en")
        settle(page)
        trouble = [line for line in page.console if "comfyui-dfosd" in line]
        heard = len(page.console)
        seen: dict[str, Any] = {"loaded": {}}
        for path in sorted(EXAMPLES.glob("*.json")):
            load(page, example(path.stem), path.stem)
            missing = missing_nodes(page)
            seen["loaded"][path.stem] = missing or page.js(WARNINGS)
            if missing:
                page.key("Escape")  # the page says so in a dialog, and asks the registry for them in vain
                page.wait(f"{DIALOGS} === 0")
                settle(page)
                heard = len(page.console)
        load(page, first_release("Two LoRA strengths side by side"), "old")
        seen["old"] = page.js(
            "app.graph.nodes.filter((node) => node.type.startsWith('DFOSD')).map((node) => [node.type,"
            " node.widgets.map((widget) => widget.value),"
            " node.inputs.filter((_, i) => node.isInputConnected(i)).length])"
        )
        seen["loaded"]["old"] = page.js(WARNINGS)
        load(page, example("Upscale a photo"), "one")
        seen["previews"] = run(page)
        preview = f"{NODE}.widgets.some((widget) => widget.name.startsWith('$$'))"
        seen["left_preview"] = ends_at(page, False, f"Boolean({PREVIEW}) || {preview}")  # it goes with the next drawing
        seen["room"] = box(page)[2:]
        seen["move"] = move(page)
        load(page, two_images(), "two")
        run(page)
        pages = "document.querySelector('.dfosd-compare .pages').textContent"
        seen["pages"] = [ends_at(page, "1 / 2", pages)]
        page.js("document.querySelectorAll('.dfosd-compare .pages button')[1].click()")
        seen["pages"].append(ends_at(page, "2 / 2", pages))
        load(page, example("Upscale a photo"), "sizes")
        seen["size_by"] = size_by(page)
        open_tab(page, "two")
        ends_at(page, 2, IMAGES)
        seen["console"] = trouble + complaints(page.console[heard:])
        seen["survive"] = survive(page)
        asked = [address for address in page.requests if not address.startswith(("data:", "blob:"))]
        seen["foreign"] = sorted({urlsplit(address).netloc for address in asked if not address.startswith(url)})
        seen["pictures"] = sorted({urlsplit(address).path for address in asked if "dfosd_" in urlsplit(address).query})
        return seen


def two_images() -> dict[str, Any]:
    """'Upscale a photo' with a batch of two: a second Load Image and Batch Images in between."""
    workflow = example("Upscale a photo")
    slot = {"type": "IMAGE", "links": None}
    load_image = next(node for node in workflow["nodes"] if node["type"] == "LoadImage")
    second = json.loads(json.dumps(load_image)) | {"id": 90, "widgets_values": ["second.png", "image"]}
    inputs = [{"name": f"image{i}", "type": "IMAGE", "link": 90 + i} for i in (1, 2)]
    batch = {"id": 91, "type": "ImageBatch", "pos": [200, 0], "size": [150, 50], "inputs": inputs, "mode": 0}
    batch |= {"outputs": [{"name": "IMAGE", **slot, "links": [93]}], "flags": {}, "order": 2, "properties": {}}
    upscale = next(node for node in workflow["nodes"] if node["type"] == "DFOSDUpscale")
    workflow["links"] = [link for link in workflow["links"] if link[3] != upscale["id"]]
    workflow["links"] += [[91, load_image["id"], 0, 91, 0, "IMAGE"], [92, 90, 0, 91, 1, "IMAGE"]]
    workflow["links"] += [[93, 91, 0, upscale["id"], 0, "IMAGE"]]
    load_image["outputs"][0]["links"], second["outputs"][0]["links"] = [91], [92]
    upscale["inputs"][0]["link"] = 93
    workflow["nodes"] += [second, batch]
    workflow["last_node_id"] = workflow["last_link_id"] = 99
    return workflow
