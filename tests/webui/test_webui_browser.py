"""The WebUIs' pages by a real browser: DFOSD's tab, its panel in Extras, and in txt2img. CHROMIUM names the browser.

WEBUI_PICTURES names a folder for screenshots, where wanted: docs/webui.md's were made so.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foreign_loras import FOLDER
from PIL import Image
from support.chromium import Browser
from webui_calls import ok, options
from webui_process import ROOT, WebUI

CHROMIUM = os.environ.get("CHROMIUM", "")
PICTURES = os.environ.get("WEBUI_PICTURES", "")
PHOTO = ROOT / "examples" / "photo.png"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not CHROMIUM, reason="CHROMIUM is not set: it names a Chromium or Chrome program"),
]
STATUS = "(document.querySelector('#dfosd_tab_status')?.innerText ?? '')"
AT = "parseFloat(getComputedStyle(document.querySelector('.dfosd-frame')).getPropertyValue('--dfosd-at'))"
ORIGIN = "(document.querySelector('#dfosd_tab_origin')?.innerText ?? '')"
LINK = "document.querySelector('#dfosd_tab_results a[href]')"
BAR = "document.querySelector('#dfosd_tab_status [role=progressbar]')"


@pytest.fixture
def page(webui: WebUI) -> Iterator[Browser]:
    """The host's page, light, with all its tabs there."""
    with Browser(CHROMIUM) as browser:
        browser.resize(1400, 900)
        browser.open(f"http://127.0.0.1:{webui.port}/?__theme=light")
        browser.wait("document.querySelectorAll('#tabs > .tab-nav > button').length > 5", 120)
        browser.wait("typeof gradioApp === 'function' && !!gradioApp().querySelector('#extras_generate')", 60)
        time.sleep(3)  # scripts of the page's that work after it has come
        yield browser
        assert [line for line in browser.console if line.startswith("exception") and "dfosd" in line.lower()] == []


def tab(page: Browser, name: str) -> None:
    wanted = (
        "[...document.querySelectorAll('#tabs > .tab-nav > button')]"
        f".find(button => button.innerText.trim().toLowerCase() === {json.dumps(name.lower())})"
    )
    page.wait(f"!!{wanted}", 60)
    page.js(f"{wanted}.click()")


def choose(page: Browser, selector: str, entry: str) -> None:
    """Type into a drop-down and press Enter."""
    page.click(f"{selector} input")
    page.js(f"document.querySelector({json.dumps(f'{selector} input')}).select()")
    page.call("Input.insertText", text=entry)
    time.sleep(0.5)
    page.key("Enter", code=13)
    page.wait(f"document.querySelector({json.dumps(f'{selector} input')}).value === {json.dumps(entry)}", 10)


def picture(page: Browser, webui: WebUI, name: str, *, whole: bool = False) -> None:
    if PICTURES:
        time.sleep(1)
        page.screenshot(Path(PICTURES) / f"{webui.name}-{name}.png", whole=whole)


def written(webui: WebUI, name: str) -> list[Path]:
    """Files of that name among the host's results since its start; Forge Neo's are in `output`."""
    found = [path for folder in webui.root.glob("output*") for path in folder.rglob(name)]
    return [path for path in found if path.stat().st_mtime > webui.started]


def open_model(page: Browser) -> None:
    """Unfold "Model" in the tab and choose the embedded one, whatever lies in models/DFOSD."""
    unfold = (
        "[...document.querySelectorAll('#tab_dfosd_tab .label-wrap')].find(b => b.innerText.trim().startsWith('Model'))"
    )
    page.js(f"{unfold}.click()")
    page.wait("document.querySelector('#dfosd_tab_lora input')?.checkVisibility()")
    choose(page, "#dfosd_tab_lora", "embedded small x4")


def test_tab_upscales_compares_and_offers_the_result(webui: WebUI, page: Browser) -> None:
    tab(page, "DFOSD")
    page.wait("document.querySelector('#dfosd_tab_start').checkVisibility()")
    picture(page, webui, "tab-before")
    page.upload("#dfosd_tab_files input[type=file]", PHOTO)
    page.wait(f"{STATUS}.includes('photo.png: 240×160 → 960×640')")
    open_model(page)
    page.click("#dfosd_tab_start")
    seen = page.wait(f"+({BAR}?.ariaValueNow)", 200)
    assert 0 < seen < 100
    picture(page, webui, "tab-during")
    page.wait("document.querySelectorAll('.dfosd-frame img').length === 2", 300)
    page.wait(f"{STATUS}.includes('Done in')")
    picture(page, webui, "tab-after")

    assert page.js(AT) == 50
    x, y = page.middle(".dfosd-frame")
    width = page.js("document.querySelector('.dfosd-frame').getBoundingClientRect().width")
    page.drag((x, y), (x - width * 0.25, y))
    assert page.js(AT) == pytest.approx(25, abs=2)

    page.js(f"{LINK}.click()")
    result = page.download()
    kept = written(webui, "photo_x4*.png")
    assert [path.stat().st_size for path in kept] == [result.stat().st_size]
    with Image.open(result) as image:
        assert image.size == (960, 640)
    kept[0].unlink()

    page.resize(390, 844, is_phone=True)
    page.wait("document.querySelector('.dfosd-frame').getBoundingClientRect().right <= 390")
    picture(page, webui, "tab-phone", whole=True)


def test_tab_runs_another_methods_file_and_says_whose_it_is(
    foreign: Path, webui: WebUI, page: Browser, tmp_path: Path
) -> None:
    """Full size with random weights, on the host's checkpoint: the result is noise over the colours of the photo."""
    small = tmp_path / "photo.png"
    Image.open(PHOTO).resize((48, 32)).save(small)
    tab(page, "DFOSD")
    page.upload("#dfosd_tab_files input[type=file]", small)
    page.wait(f"{STATUS}.includes('photo.png: 48×32 → 192×128')")
    open_model(page)
    page.click("#dfosd_tab_refresh")  # the files came when the page was drawn already
    time.sleep(2)
    choose(page, "#dfosd_tab_lora", f"{FOLDER}/osediff.pkl")
    page.wait(f"{ORIGIN}.includes('OSEDiff. Licence: Apache-2.0. SHA-256: ')", 60)
    page.click("#dfosd_tab_start")
    page.wait(f"{STATUS}.includes('Done in')", 900)
    page.wait("document.querySelectorAll('.dfosd-frame img').length === 2")
    page.resize(1400, 1000)  # down to the decoder's drop-down
    picture(page, webui, "imported")
    choose(page, "#dfosd_tab_lora", "embedded small x4")
    page.wait(f"{ORIGIN} === ''", 60)
    for path in written(webui, "photo_x4*.png"):
        path.unlink()


def test_tab_stops_in_the_middle(webui: WebUI, page: Browser, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((640, 960, 3), np.uint8)).save(large)
    tab(page, "DFOSD")
    page.upload("#dfosd_tab_files input[type=file]", large)
    page.wait(f"{STATUS}.includes('large.png: 960×640')")
    open_model(page)
    page.click("#dfosd_tab_start")
    page.wait(f"{STATUS}.includes('reading')", 200)
    page.click("#dfosd_tab_stop")
    page.wait(f"{STATUS}.includes('Stopped after')", 60)
    ok(webui.post("/dfosd-probe/state", {}))
    assert written(webui, "large_x4*.png") == []


def switch_on(page: Browser, prefix: str) -> None:
    """Tick DFOSD, which does not unfold it, unfold it, and choose the embedded model."""
    page.click(f"#{prefix}-visible-checkbox")
    page.click(f"#{prefix} .label-wrap")
    page.wait(f"document.querySelector('#{prefix}_lora input')?.checkVisibility()")
    choose(page, f"#{prefix}_lora", "embedded small x4")


def test_extras_upscales_at_a_click(webui: WebUI, page: Browser) -> None:
    tab(page, "Extras")
    page.upload("#extras_image input[type=file]", PHOTO)
    page.wait("!!document.querySelector('#extras_image img')")
    switch_on(page, "extras_dfosd")
    page.click("#extras_generate")
    page.wait("!!document.querySelector('#extras_gallery img')", 300)
    page.wait("document.querySelector('#html_info_x_extras').innerText.includes('DFOSD scale: 4')")
    assert page.js("document.querySelector('#html_log_extras').innerText").startswith("Time taken")
    assert size_of(page, "#extras_gallery img") == [960, 640]
    page.click("#extras_upscale .label-wrap")  # so that our panel is in sight, under the host's own
    page.resize(1400, 1200)
    page.js("scrollTo(0, 0)")
    picture(page, webui, "extras")


def test_extras_upscales_a_folder(webui: WebUI, page: Browser, tmp_path: Path) -> None:
    photos, results = tmp_path / "photos", tmp_path / "results"
    photos.mkdir()
    for name, width in (("one", 20), ("two", 31)):
        Image.fromarray(np.full((12, width, 3), 90, np.uint8)).save(photos / f"{name}.png")
    tab(page, "Extras")
    page.js(
        "[...document.querySelectorAll('#mode_extras button')]"
        ".find(button => button.innerText.trim() === 'Batch from Directory').click()"
    )
    for name, folder in (("input", photos), ("output", results)):
        box = f"document.querySelector('#extras_batch_{name}_dir textarea')"
        page.wait(f"{box}?.checkVisibility()")
        page.js(f"{box}.value = {json.dumps(str(folder))}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    switch_on(page, "extras_dfosd")
    page.click("#extras_generate")
    page.wait("document.querySelector('#html_log_extras').innerText.startsWith('Time taken')", 300)
    sizes = sorted(Image.open(path).size for path in results.iterdir())
    assert sizes == [(80, 48), (124, 48)]


def test_interrupt_in_extras_keeps_the_image_as_it_was(webui: WebUI, page: Browser, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)).save(large)
    tab(page, "Extras")
    page.upload("#extras_image input[type=file]", large)
    page.wait("!!document.querySelector('#extras_image img')")
    switch_on(page, "extras_dfosd")
    page.click("#extras_generate")
    percent = page.wait("parseFloat(document.querySelector('#extras_results .progress')?.style.width ?? '0')", 200)
    assert percent < 60
    picture(page, webui, "extras-during")
    page.click("#extras_interrupt")
    page.wait("!!document.querySelector('#extras_gallery img')", 60)
    assert size_of(page, "#extras_gallery img") == [640, 480]
    assert "DFOSD" not in page.js("document.querySelector('#html_info_x_extras').innerText")


def test_three_panels_in_one_page_are_three(webui: WebUI) -> None:
    """In Extras, txt2img and img2img, where a user has asked for it; after "Reload UI", which draws all anew."""
    starts = webui.text().count("Startup time")
    # reForge wants to download something for its previews.
    with options(webui, postprocessing_enable_in_main_ui=["DFOSD"], live_previews_enable=False):
        ok(webui.post("/dfosd-probe/reload_ui", {}))
        webui.wait_until_up(starts + 1)
        with Browser(CHROMIUM) as page:
            work_in_txt2img(page, webui)


def work_in_txt2img(page: Browser, webui: WebUI) -> None:
    """Tick DFOSD there, and make a small picture of twice the size asked for."""
    page.resize(1400, 1300)
    page.open(f"http://127.0.0.1:{webui.port}/?__theme=light")
    page.wait("document.querySelectorAll('#tabs > .tab-nav > button').length > 5", 120)
    boxes = "[...document.querySelectorAll('[id^=extras_dfosd][id$=-visible-checkbox]')]"
    page.wait(f"{boxes}.length === 3", 60)
    time.sleep(3)
    assert page.js(f"new Set({boxes}.map(box => box.id)).size") == 3
    mine = page.js(f"{boxes}.find(box => box.closest('#tab_txt2img')).id")
    prefix = mine.removesuffix("-visible-checkbox")
    switch_on(page, prefix)
    assert page.js(f"{boxes}.filter(box => box.checked).length") == 1
    for name, value in (("steps", 1), ("width", 64), ("height", 64)):
        number(page, f"#txt2img_{name}", value)
    number(page, f"#{prefix}_scale", 2)
    page.click("#txt2img_generate")
    page.wait("!!document.querySelector('#txt2img_gallery img, #html_log_txt2img .error')", 600)
    assert size_of(page, "#txt2img_gallery img") == [128, 128]
    assert re.search(
        r"DFOSD model: \W?embedded small x4", page.js("document.querySelector('#html_info_txt2img').innerText")
    )
    picture(page, webui, "txt2img", whole=True)


def size_of(page: Browser, selector: str) -> list[int]:
    """Width and height of an image's own pixels."""
    page.wait(f"document.querySelector('{selector}').naturalWidth > 0")
    return page.js(f"(image => [image.naturalWidth, image.naturalHeight])(document.querySelector('{selector}'))")


def number(page: Browser, selector: str, value: int) -> None:
    """Into a slider's box of numbers."""
    box = f"document.querySelector('{selector} input[type=number]')"
    page.js(f"{box}.value = {value}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))")
