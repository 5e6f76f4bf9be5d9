"""The report of `evaluate`: one file, no network, rows that sort, a divider that moves. CHROMIUM names the browser.

REPORT_PICTURES: a folder for pictures of the page.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.chromium import Browser

from train_tools.scoring import report
from train_tools.scoring.report import choose, html_report
from train_tools.scoring.score_file import ScoreFile
from train_tools.scoring.sets import TestSet, open_set
from train_tools.scoring.tables import Quoted, means

CHROMIUM = os.environ.get("CHROMIUM", "")
PICTURES = os.environ.get("REPORT_PICTURES", "")
NAMES = ("a<b", "img10", "img2")
PSNR = {"bicubic": (20.0, 30.0, 25.0), "DFOSD": (21.0, 24.0, float("inf"))}
COLORS = {"LR": (200, 0, 0), "HR": (0, 200, 0), "bicubic": (0, 0, 200), "DFOSD": (200, 200, 0)}


@pytest.fixture
def scored(tmp_path: Path) -> tuple[TestSet, ScoreFile]:
    """Three images of one colour for each kind of file."""
    for folder, color in COLORS.items():
        for name in NAMES:
            path = tmp_path / "set" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30) if folder == "LR" else (160, 120), color).save(path)
    test_set = open_set(tmp_path / "set")
    file = ScoreFile(tmp_path / "scores.jsonl", {})
    for method, values in PSNR.items():
        file.start(method, {}, tmp_path / "set" / method)
        for name, value in zip(NAMES, values, strict=True):
            file.add(method, name, {"PSNR-Y": value, "SSIM-Y": value / 100})
    return test_set, ScoreFile(tmp_path / "scores.jsonl", {})


def text_of(scored: tuple[TestSet, ScoreFile], *quoted: Quoted) -> str:
    test_set, file = scored
    return html_report(test_set, file, means(file, list(test_set.lr)), quoted, {"metrics": {"PSNR-Y": "dfosd"}})


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def color_of(address: str) -> tuple[int, ...]:
    head, _, body = address.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        return tuple(int(value) for value in np.asarray(image).reshape(-1, 3).mean(0).round())


def test_the_report_is_whole_in_itself(scored: tuple[TestSet, ScoreFile]) -> None:
    row = Quoted(method="Peer & Co", scores={"PSNR-Y": 27.5}, source="A paper, Table 1", note="another set")
    text = text_of(scored, row)
    assert not re.search(r"""(src|href)=|@import|url\(|https?:""", text)
    assert "{{" not in text
    assert "<tr class=quoted><th scope=row>Peer &amp; Co</th><td>27.50</td><td>-</td>" in text
    assert "<b>quoted</b>: A paper, Table 1<br>another set" in text
    assert "set, protocol own (own images, not comparable with published figures), 3 images" in text
    data = data_of(text)
    assert data["images"]["img2"] == {"bicubic": [25.0, 0.25], "DFOSD": ["inf", "inf"]}
    assert (data["first"], data["ranked"]) == ("DFOSD", "SSIM-Y")
    pictures = data["pictures"]["a<b"]
    assert list(pictures) == ["Input", "Reference", "bicubic", "DFOSD"]
    for label, folder in {"Input": "LR", "Reference": "HR", "bicubic": "bicubic", "DFOSD": "DFOSD"}.items():
        assert color_of(pictures[label]) == pytest.approx(COLORS[folder], abs=4)


def test_pictures_are_bounded_in_number_and_size(
    scored: tuple[TestSet, ScoreFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "VIEW_PX", 80)
    shown = data_of(text_of(scored))["pictures"]["img2"]
    sizes = {label: Image.open(io.BytesIO(base64.b64decode(at.partition(",")[2]))).size for label, at in shown.items()}
    assert sizes == {"Input": (20, 20), "Reference": (80, 80), "bicubic": (80, 80), "DFOSD": (80, 80)}
    size = sum(map(len, shown.values()))
    monkeypatch.setattr(report, "TOTAL_BYTES", 2 * size + 10)
    text = text_of(scored)
    assert len(data_of(text)["pictures"]) == 2
    assert "Pictures: 2 of 3 images: the worst and the best of DFOSD by SSIM-Y" in text
    many = {str(n): float(n) for n in range(100)}
    chosen = choose(many, "DISTS", 12)
    assert len(set(chosen)) == 12
    assert chosen[:2] == ["99", "0"]
    assert {"99", "98", "97", "96", "0", "1", "2", "3"} < set(chosen)
    assert choose(many, "PSNR-Y", 12)[:2] == ["0", "99"]


def test_methods_whose_images_are_gone_keep_their_scores(scored: tuple[TestSet, ScoreFile]) -> None:
    test_set, _ = scored
    folder = test_set.folder / "bicubic"
    folder.rename(test_set.folder.parent / "elsewhere")
    data = data_of(text_of(scored))
    assert set(data["pictures"]["img2"]) == {"Input", "Reference", "DFOSD"}
    assert set(data["images"]["img2"]) == {"bicubic", "DFOSD"}


@pytest.fixture
def page(scored: tuple[TestSet, ScoreFile], tmp_path: Path) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("CHROMIUM is not set: it names a Chromium or Chrome program")
    path = tmp_path / "report.html"
    path.write_text(text_of(scored), encoding="utf-8")
    with Browser(CHROMIUM, 1280, 900) as browser:
        browser.open(path.as_uri())
        browser.wait("document.readyState === 'complete'")
        yield browser
        assert browser.console == []
        assert {address.partition(":")[0] for address in browser.requests} == {"file", "data"}


def rows(page: Browser) -> list[str]:
    return page.js("[...document.querySelectorAll('#rows tbody th')].map((cell) => cell.textContent)")


def test_rows_sort_by_every_column_with_mouse_and_keyboard(page: Browser) -> None:
    assert rows(page) == ["a<b", "img10", "img2"]  # worst of DFOSD first
    page.click("#best")
    assert rows(page) == ["img2", "img10", "a<b"]
    page.js("document.getElementById('method').value = 'bicubic'")
    page.js("document.getElementById('method').dispatchEvent(new Event('change'))")
    page.click("#worst")
    assert rows(page) == ["a<b", "img2", "img10"]
    page.click("#rows th:nth-child(1) button")
    assert rows(page) == ["a<b", "img2", "img10"]  # by number, not by letter
    page.js("document.querySelector('#rows th:nth-child(2) button').focus()")
    page.key(" ", code=32)
    assert page.js("document.querySelector('#rows th:nth-child(2)').ariaSort") == "ascending"
    page.key(" ", code=32)
    assert page.js("document.querySelector('#rows th:nth-child(2)').ariaSort") == "descending"
    assert rows(page) == ["img10", "img2", "a<b"]
    assert page.js("document.querySelector('#rows tbody td').textContent") == "30.00"


def pixel(page: Browser, across: float) -> tuple[int, ...]:
    """The colour in the middle of the view's height, at a share of its width."""
    box = page.js("(() => { const b = document.getElementById('view').getBoundingClientRect();"
                  " return [b.x, b.y, b.width, b.height]; })()")  # fmt: skip
    png = page.pixels(box[0] + across * box[2], box[1] + box[3] / 2, 2, 2)
    with Image.open(io.BytesIO(png)) as image:
        color = image.convert("RGB").getpixel((0, 0))
    assert isinstance(color, tuple)
    return color


def test_the_divider_follows_mouse_keys_and_finger(page: Browser) -> None:
    left, right = COLORS["LR"], COLORS["DFOSD"]
    assert pixel(page, 0.25) == pytest.approx(left, abs=6)
    assert pixel(page, 0.75) == pytest.approx(right, abs=6)
    x, y = page.middle("#view")
    width = page.js("document.getElementById('view').clientWidth")
    page.drag((x, y), (x + 0.4 * width, y))
    assert pixel(page, 0.75) == pytest.approx(left, abs=6)
    assert page.js("Number(document.getElementById('divider').value)") == pytest.approx(90, abs=3)
    page.js("document.getElementById('divider').focus()")
    page.key("Home", code=36)
    assert pixel(page, 0.25) == pytest.approx(right, abs=6)
    page.resize(390, 844, is_phone=True)
    assert page.js("document.documentElement.scrollWidth") == 390
    x, y = page.middle("#view")
    page.swipe((x - 150, y), (x + 100, y))
    assert pixel(page, 0.6) == pytest.approx(left, abs=6)


def test_other_images_and_methods_are_chosen(page: Browser) -> None:
    assert page.js("document.getElementById('name').textContent") == "a<b"
    page.click("#rows tbody tr:nth-child(3) button")
    assert page.js("document.getElementById('name').textContent") == "img2"
    assert page.js("document.querySelector('#rows tr[aria-current] th').textContent") == "img2"
    assert page.js("document.querySelector('#scores tr:nth-child(3)').textContent") == "DFOSD∞∞"
    page.click("#next")
    assert page.js("document.getElementById('name').textContent") == "a<b"
    for side, label in (("left", "Reference"), ("right", "bicubic")):
        page.js(f"document.getElementById('{side}-of').value = '{label}'")
        page.js(f"document.getElementById('{side}-of').dispatchEvent(new Event('change'))")
    assert pixel(page, 0.25) == pytest.approx(COLORS["HR"], abs=6)
    assert pixel(page, 0.75) == pytest.approx(COLORS["bicubic"], abs=6)
    if PICTURES:
        page.screenshot(Path(PICTURES, "report.png"))


HOSTILE = ("<img src=x onerror=alert(1)>", "{{data}}", "<!--<script>", "__proto__", "constructor", "a'\"&b")


def hostile_report(folder: Path) -> str:
    """Names that would run something, or take the place of something, were they put in as they are."""
    for name in HOSTILE:
        for side, scale in (("LR", 1), ("HR", 4), ("DFOSD", 4)):
            (folder / "set" / side).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 * scale, 20 * scale), (90, 90, 90)).save(folder / "set" / side / f"{name}.png")
    test_set = open_set(folder / "set")
    file = ScoreFile(folder / "scores.jsonl", {})
    for method in ("DFOSD", "<script>alert(2)</script>{{data}}"):
        file.start(method, {"note": "</pre><script>alert(3)</script>"}, folder / "set" / "DFOSD")
        for name in HOSTILE:
            file.add(method, name, {"PSNR-Y": 20.0, "SSIM-Y": 0.5})
    return text_of((test_set, file))


def test_names_run_nothing(tmp_path: Path) -> None:
    text = hostile_report(tmp_path)
    assert re.findall(r"<script\b[^>]*>", text) == ['<script type="application/json" id="data">', "<script>"]
    assert "<img src" not in text
    assert text.count('"images":') == 1
    assert set(data_of(text)["images"]) == set(HOSTILE)
    assert "&lt;script&gt;alert(2)&lt;/script&gt;{{data}}</th>" in text


def test_names_run_nothing_in_a_browser(tmp_path: Path) -> None:
    if not CHROMIUM:
        pytest.skip("CHROMIUM is not set: it names a Chromium or Chrome program")
    path = tmp_path / "report.html"
    path.write_text(hostile_report(tmp_path), encoding="utf-8")
    with Browser(CHROMIUM) as page:
        page.open(path.as_uri())
        page.wait("document.readyState === 'complete'")
        assert sorted(rows(page)) == sorted(HOSTILE)
        assert page.js("[...document.images].map((image) => image.id).join()") == "left,right"
        assert page.console == []
