"""The app as a user has it: `dfosd app` and a real browser. CHROMIUM names the browser's program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.chromium import Browser

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM", "")
PICTURES = os.environ.get("APP_PICTURES", "")
"""A folder for screenshots, where wanted: docs/app.md's were made so."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="CHROMIUM is not set: it names a Chromium or Chrome program"),
]
FILES = "#dfosd_files input[type=file]"
AT = "parseFloat(getComputedStyle(document.querySelector('.dfosd-frame')).getPropertyValue('--dfosd-at'))"
STATUS = "(document.querySelector('#dfosd_status')?.innerText ?? '')"
HREF = "document.querySelector('#dfosd_results a[download=\"{}\"]')"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, the folder given as --out) of a running `dfosd app`, which must end cleanly."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "dfosd_core.cli", "app", "--out", str(tmp_path / "out"), "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield found[0], tmp_path / "out"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert list(temporary.glob("dfosd-*")) == [], "uploads or results were left behind"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def picture(browser: Browser, name: str, *, whole: bool = False) -> None:
    if PICTURES:
        time.sleep(1)  # fonts, fades
        browser.screenshot(Path(PICTURES) / f"{name}.png", whole=whole)


def fetch(browser: Browser, name: str) -> Path:
    browser.wait(f"!!{HREF.format(name)}")
    browser.js(f"{HREF.format(name)}.click()")
    return browser.download()


def test_upload_run_compare_and_download(server: tuple[str, Path], tmp_path: Path) -> None:
    address, out = server
    with Browser(CHROMIUM) as page:
        page.resize(1400, 900)
        page.open(address)
        page.wait("!!document.querySelector('#dfosd_start')")
        picture(page, "start")

        page.upload(FILES, ROOT / "examples" / "photo.png")
        page.wait(f"{STATUS}.includes('photo.png: 240×160 → 960×640')")
        picture(page, "before")
        page.click("#dfosd_start")
        page.wait("!!document.querySelector('#dfosd_status [role=progressbar]')")
        seen = page.wait("+(document.querySelector('#dfosd_status [role=progressbar]')?.ariaValueNow)", 120)
        assert 0 < seen < 100
        picture(page, "during")
        page.wait("document.querySelectorAll('.dfosd-frame img').length === 2", 200)
        page.wait(f"{STATUS}.includes('Done in')")
        picture(page, "after")

        # The mouse takes the line along, and the pictures' edges with it.
        assert page.js(AT) == 50
        x, y = page.middle(".dfosd-frame")
        width = page.js("document.querySelector('.dfosd-frame').getBoundingClientRect().width")
        page.drag((x, y), (x - width * 0.25, y))
        assert page.js(AT) == pytest.approx(25, abs=2)
        clip = page.js("getComputedStyle(document.querySelector('.dfosd-before')).clipPath")
        assert float(re.findall(r"([\d.]+)%", clip)[-1]) == pytest.approx(75, abs=2)
        page.js("document.querySelector('.dfosd-frame input').focus()")
        before = page.js(AT)
        page.key("ArrowRight", code=39)
        assert page.js(AT) > before

        result = fetch(page, "photo_x4.png")
        assert result.stat().st_size == (out / "photo_x4.png").stat().st_size
        with Image.open(result) as image:
            assert image.size == (960, 640)

        page.resize(390, 844, is_phone=True)
        assert page.wait("document.documentElement.scrollWidth <= 390")
        x, y = page.middle(".dfosd-frame")
        width = page.js("document.querySelector('.dfosd-frame').getBoundingClientRect().width")
        at = page.js(AT)
        line = x + (at - 50) / 100 * width
        page.swipe((line, y), (line + width * 0.4, y))
        assert page.js(AT) == pytest.approx(at + 40, abs=6)
        page.js("scrollTo(0, 0)")
        picture(page, "phone", whole=True)

        foreign = [url for url in page.requests if not url.startswith((address, "data:", "blob:"))]
        assert foreign == []
        assert [line for line in page.console if not line.startswith("warning")] == []


def test_batch_stop_zip_and_bad_file(server: tuple[str, Path], tmp_path: Path) -> None:
    address, out = server
    files = [tmp_path / f"{name}.png" for name in ("one", "two", "bad")]
    for file in files[:2]:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(file)
    files[2].write_bytes(b"nothing")
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((640, 960, 3), np.uint8)).save(large)
    with Browser(CHROMIUM) as page:
        page.open(address)
        page.wait("!!document.querySelector('#dfosd_start')")
        page.upload(FILES, *files)
        page.wait(f"{STATUS}.includes(\"'bad.png' is damaged or not a PNG\")")
        page.click("#dfosd_start")
        page.wait(f"{STATUS}.includes('2 of 3 are done')", 200)
        with zipfile.ZipFile(fetch(page, "dfosd.zip")) as archive:
            assert sorted(archive.namelist()) == ["one_x4.png", "two_x4.png"]
        assert sorted(path.name for path in out.iterdir()) == ["one_x4.png", "two_x4.png"]
        assert page.js("document.querySelector('#dfosd_picker').getBoundingClientRect().height") > 0
        picture(page, "batch")

        page.open(address)  # anew
        page.wait("!!document.querySelector('#dfosd_start')")
        page.upload(FILES, large)
        page.wait(f"{STATUS}.includes('large.png')")
        page.click("#dfosd_start")
        page.wait(f"{STATUS}.includes('reading')", 200)
        page.click("#dfosd_stop")
        page.wait(f"{STATUS}.includes('Stopped after')", 200)
        assert sorted(path.name for path in out.iterdir()) == ["one_x4.png", "two_x4.png"]
