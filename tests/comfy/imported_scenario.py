"""Chooses a file in DFOSD Upscale's list on ComfyUI's running page, with the mouse, runs it, and says what it saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slider_scenario import NODE, STAGE, complaints, ends_at, run, settle, wait_for_page
from support.chromium import Browser

LORA = f"{NODE}.widgets.find((widget) => widget.name === 'lora')"
NOTE = "document.querySelector('.dfosd-compare .note')"
ENTRIES = "[...document.querySelectorAll('.litecontextmenu .litemenu-entry')]"
PLACES = {
    "CheckpointLoaderSimple": [20, 30],
    "CLIPTextEncode": [20, 190],
    "LoadImage": [20, 370],
    "DFOSDUpscale": [470, 30],
}


def open_graph(page: Browser, workflow: dict[str, Any]) -> None:
    """A workflow in API format, its nodes where they can be seen and clicked."""
    page.js(f"app.loadApiJson({json.dumps(workflow)}, 'imported')")
    page.wait(f"Boolean({NODE})")
    page.js(
        f"Object.entries({json.dumps(PLACES)}).forEach(([type, pos]) => {{"
        "  const node = app.graph.nodes.find((node) => node.type === type);"
        "  if (node) node.pos = pos })"
    )
    page.js("app.canvas.ds.scale = 1; app.canvas.ds.offset = [60, 30]; app.canvas.setDirty(true, true)")
    settle(page)
    page.wait(f"{LORA}.last_y > 0")  # drawn


def open_list(page: Browser) -> list[str]:
    """Click the list of LoRAs on the node; what it then shows."""
    x, y = page.js(
        f"(() => {{ const node = {NODE};"
        f" return app.canvasPosToClientPos([node.pos[0] + node.size[0] / 2, node.pos[1] + {LORA}.last_y + 10]) }})()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait(f"{ENTRIES}.length > 0")
    return page.js(f"{ENTRIES}.map((entry) => entry.textContent.trim())")


def choose(page: Browser, name: str) -> None:
    """Click a name in the open list."""
    x, y = page.js(
        f"(() => {{ const entry = {ENTRIES}.find((entry) => entry.textContent.trim() === {json.dumps(name)});"
        " const box = entry.getBoundingClientRect(); return [box.x + 20, box.y + box.height / 2] })()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait(f"{ENTRIES}.length === 0")


def work(program: str, url: str, workflow: dict[str, Any], names: list[str], shots: Path) -> dict[str, Any]:
    """Choose and run each of `names`; screenshots go to `shots`."""
    seen: dict[str, Any] = {"chosen": [], "notes": []}
    with Browser(program, 1180, 1000) as page:
        page.open(url)
        wait_for_page(page)
        open_graph(page, workflow)
        heard = len(page.console)
        note = ""
        for name in names:
            seen["list"] = open_list(page)
            page.screenshot(shots / f"{name}_list.png")
            choose(page, name)
            seen["chosen"].append(page.js(f"{LORA}.value"))
            run(page)
            page.wait(f"{NOTE}.checkVisibility() && {NOTE}.textContent !== {json.dumps(note)}")
            note = page.js(f"{NOTE}.textContent")
            seen["notes"].append(note)
            page.screenshot(shots / f"{name}.png")
        seen["note_is_below"] = page.js(
            f"{NOTE}.getBoundingClientRect().top >= {STAGE}.getBoundingClientRect().bottom - 1"
        )
        seen["console"] = complaints(page.console[heard:])
        page.reload()
        wait_for_page(page)
        page.wait(f"{NOTE}?.checkVisibility()")
        seen["reloaded"] = page.js(f"{NOTE}.textContent")
        page.js(f"{LORA}.value = {LORA}.options.values[0]")
        run(page)
        seen["embedded"] = ends_at(page, False, f"{NOTE}.checkVisibility()")
    return seen
