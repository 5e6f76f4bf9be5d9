"""Runs in ComfyUI's own environment: works the before/after slider on the running page, and prints what it saw as JSON.

    HOST/venv/bin/python slider_scenario.py URL

The server's input folder must hold example.png and second.png.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from browser import Page, open_page

EXAMPLES = Path(__file__).parents[2] / "example_workflows"
NODE = "app.graph.nodes.find(node => node.type === 'DFOSDUpscale')"
STAGE = "document.querySelector('.dfosd-compare .stage')"
IMAGES = "document.querySelectorAll('.dfosd-compare img').length"
SLIDERS = "document.querySelectorAll('.dfosd-compare').length"
WORKFLOWS = "app.extensionManager.workflow"


def example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))


async def wait_for_page(page: Page) -> None:
    await page.until("window.app?.extensionManager && window.LiteGraph?.registered_node_types?.DFOSDUpscale", 120)
    await asyncio.sleep(5)  # the page goes on loading settings and the last workflow; it says nowhere when it is done
    await page.js("document.querySelectorAll('.p-dialog-close-button').forEach(button => button.click())")


async def load(page: Page, workflow: dict[str, Any], name: str) -> None:
    await page.js(f"app.loadGraphData({json.dumps(workflow)}, true, true, {json.dumps(name)})")
    await asyncio.sleep(1)
    await page.js("app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [60, 20]; app.canvas.setDirty(true, true)")


async def ends_at(page: Page, wanted: object, expression: str) -> Any:
    """The expression's value when it is the wanted one, or what it is after half a minute."""
    for _ in range(150):
        value = await page.js(expression)
        if value == wanted:
            break
        await asyncio.sleep(0.2)
    return value


async def box(page: Page) -> list[float]:
    """Left, top, width, height of the picture in the window."""
    return await page.js(
        f"(() => {{ const b = {STAGE}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
    )


async def position(page: Page) -> float:
    """Where the picture before is cut off, in percent of the width, as the browser draws it."""
    clip: str = await page.js("getComputedStyle(document.querySelector('.dfosd-compare .before')).clipPath")
    return 100 - float(clip.split("calc(100% - ")[1].split("%")[0] if "calc" in clip else clip.split()[1].rstrip("%"))


async def run(page: Page) -> int:
    """Run the open workflow; returns in how many looks at the node the host's own preview was there."""
    previews = 0
    await page.js("window.done = false; app.api.addEventListener('execution_success', () => window.done = true)")
    await page.js("app.queuePrompt(0, 1)")
    for _ in range(600):
        previews += bool(await page.js(f"{NODE}.imgs?.length && {STAGE}?.checkVisibility() !== true"))
        if await page.js("window.done"):
            break
        await asyncio.sleep(0.1)
    await page.until(f"{STAGE}?.checkVisibility()", 60)
    await asyncio.sleep(1)
    return previews


async def move(page: Page) -> dict[str, Any]:
    """Mouse, finger and keys on the slider of the open workflow."""
    left, top, width, height = await box(page)

    def at(part: float) -> tuple[float, float]:
        return left + width * part, top + height * 0.4

    seen: dict[str, Any] = {"start": await position(page)}
    shots = {"left": b"", "right": b""}
    await page.drag(at(0.5), at(0.3))
    seen["dragged"] = await position(page)
    await page.swipe(at(0.3), at(0.7))
    seen["swiped"] = await position(page)
    await page.key("ArrowLeft")
    await page.key("ArrowRight", shift=True)
    seen["keys"] = await position(page)
    clip = {"x": left, "y": top, "width": width, "height": height}
    for key, side in (("Home", "left"), ("End", "right")):
        await page.key(key)
        shots[side] = await page.picture(clip)
        seen[key] = await position(page)
    seen["pictures_differ"] = shots["left"] != shots["right"]
    await page.drag(at(0.5), (left - 40, top + height * 0.4))
    seen["beyond"] = await position(page)
    seen["node_stayed"] = await page.js(f"[...{NODE}.pos].join() === '400,130'")
    return seen


async def survive(page: Page) -> dict[str, Any]:
    """Resizing, undo, another workflow, loading the page anew, removal."""
    seen: dict[str, Any] = {}
    before = await box(page)
    await page.js(f"{NODE}.setSize([600, 800]), app.canvas.setDirty(true, true)")
    await page.until(f"{STAGE}.getBoundingClientRect().width > {before[2]}", 20)
    after = await box(page)
    seen["resized"] = after[2] / before[2], after[2] / after[3], before[2] / before[3]
    seen["values"] = await page.js(f"{NODE}.serialize().widgets_values")
    tracker = f"{WORKFLOWS}.activeWorkflow.changeTracker"
    await page.js(f"{tracker}.checkState(), {NODE}.widgets[1].value = 2.5, {tracker}.checkState(), {tracker}.undo()")
    await page.until(f"{NODE}.widgets[1].value === 4")
    seen["undone"] = await ends_at(page, 2, IMAGES)
    await page.js("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    seen["blank"] = await ends_at(page, 0, SLIDERS)
    tab = "[...document.querySelectorAll('.workflow-tabs .p-togglebutton')].find(tab => /two/.test(tab.textContent))"
    await page.js(f"{tab}.click()")
    seen["back"] = await ends_at(page, 2, IMAGES)
    await page.js("app.extensionManager.setting.set('Comfy.Locale', 'zh')")  # which makes the nodes anew
    await page.until(f"{NODE}?.constructor.title !== 'DFOSD Upscale' && {IMAGES} === 2", 60)
    await asyncio.sleep(1)
    seen["chinese"] = await page.js("document.querySelector('.dfosd-compare .before .tag').textContent")
    seen["chinese_title"] = await page.js(f"{NODE}.constructor.title")
    await page.reload()
    await wait_for_page(page)
    seen["reloaded"] = await ends_at(page, 2, IMAGES)
    await page.js(f"app.graph.remove({NODE})")
    seen["removed"] = await ends_at(page, 0, SLIDERS)
    return seen


async def main(url: str) -> None:
    async with open_page(url) as page:
        await wait_for_page(page)
        trouble = [line for line in page.console if "comfyui-dfosd" in line]
        heard = len(page.console)
        seen: dict[str, Any] = {"loaded": {}}
        for path in sorted(EXAMPLES.glob("*.json")):
            await load(page, example(path.stem), path.stem)
            seen["loaded"][path.stem] = await page.js("document.querySelectorAll('.p-dialog, .p-toast-message').length")
        await load(page, example("Upscale a photo"), "one")
        seen["previews"] = await run(page)
        seen["left_preview"] = await page.js(f"Boolean({NODE}.imgs) || {NODE}.widgets.length !== 11")
        seen["move"] = await move(page)
        await load(page, two_images(), "two")
        await run(page)
        pages = "document.querySelector('.dfosd-compare .pages').textContent"
        seen["pages"] = [await ends_at(page, "1 / 2", pages)]
        await page.js("document.querySelectorAll('.dfosd-compare .pages button')[1].click()")
        seen["pages"].append(await ends_at(page, "2 / 2", pages))
        seen["console"] = trouble + page.console[heard:]
        seen["survive"] = await survive(page)
        asked = [address for address in page.requests if not address.startswith(("data:", "blob:"))]
        seen["foreign"] = sorted({urlsplit(address).netloc for address in asked if not address.startswith(url)})
        seen["pictures"] = sorted({urlsplit(address).path for address in asked if "dfosd_" in urlsplit(address).query})
        sys.stdout.write(json.dumps(seen))


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


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
