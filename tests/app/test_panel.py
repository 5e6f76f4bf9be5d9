"""The panel: drawn from UpscaleSettings without a warning, and what its buttons do."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from support.held_engine import TILES, HeldEngine

from dfosd_core.app import controls, view
from dfosd_core.app import panel as panel_module
from dfosd_core.app.limits import Limits
from dfosd_core.app.panel import ModelLists, Panel, build_panel
from dfosd_core.app.preview import Pair
from dfosd_core.app.runner import Workplace
from dfosd_core.errors import ConfigError, LoraFormatError
from dfosd_core.settings import UpscaleSettings

ROOT = Path(__file__).parents[2]
DEFAULTS = [field.default for field in fields(UpscaleSettings)]
TICKET, PAIRS, VIEW, STATUS, OFFERED, PICKER, START, STOP = range(8)
Photo = Callable[..., Path]


@pytest.fixture
def panel(engine: HeldEngine, tmp_path: Path) -> Iterator[Panel]:
    for name in ("results", "previews"):
        (tmp_path / name).mkdir()
    made = Panel(Workplace(engine=engine, results=tmp_path / "results", previews=tmp_path / "previews"))
    yield made
    made.close()


def run(panel: Panel, files: Any, **changed: Any) -> list[tuple[Any, ...]]:
    values = [changed.get(field.name, field.default) for field in fields(UpscaleSettings)]
    return list(panel.run(files, "", "", "", *values))


def draw_all() -> dict[str, Any]:
    with gr.Blocks():
        drawn = controls.draw_first("x") | controls.draw_others("x")
    return {name: drawn[name] for name in sorted(drawn, key=controls.ORDER.index)}


def test_time_that_is_shown_is_the_runs_own(panel: Panel, photo: Photo) -> None:
    shown = " ".join(str(part) for outputs in run(panel, [str(photo())]) for part in outputs)
    assert re.search(r"\d+\.\d s", shown)
    assert " min " not in shown


def test_installed_gradio_draws_it_without_a_warning_and_without_torch() -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['diffusers'] = None; "
        "runpy.run_path('tests/app/draw_panel.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Gradio {gr.__version__}: ")


def test_every_setting_has_a_control_with_its_limits_default_and_help() -> None:
    drawn = draw_all()
    assert list(drawn) == [field.name for field in fields(UpscaleSettings)]
    for field in fields(UpscaleSettings):
        control, limits = drawn[field.name], field.metadata
        assert control.info == limits["help"]
        if "choices" in limits:
            assert [value for _, value in control.choices] == list(limits["choices"])
            assert control.value == field.default
        elif field.default is None:
            assert control.value == ""
        else:
            assert (control.minimum, control.maximum, control.step, control.value) == (
                limits["min"],
                limits["max"],
                limits["step"],
                field.default,
            )


def test_untouched_controls_give_the_default_settings() -> None:
    drawn = draw_all()
    assert controls.settings_of([control.value for control in drawn.values()]) == UpscaleSettings()


def test_text_boxes_give_whole_numbers() -> None:
    values = dict.fromkeys(controls.ORDER, "") | {"scale": 2, "color_fix": "lab", "strength": 1.0, "unet_tile": " 0 "}
    assert controls.settings_of(list(values.values())) == UpscaleSettings(scale=2, color_fix="lab", unet_tile=0)


@pytest.mark.parametrize(("typed", "found"), [("large", "large"), ("-5", "-5"), ("64.5", "64.5"), ("--5", "--5")])
def test_text_box_that_holds_no_size_is_refused(typed: str, found: str) -> None:
    values = [typed if name == "unet_tile" else default for name, default in zip(controls.ORDER, DEFAULTS, strict=True)]
    with pytest.raises(ConfigError, match=f"^Expected unet_tile a whole number from 0 to 8192, found {found}\\.$"):
        controls.settings_of(values)


def test_origin_of_a_lora_is_shown_beside_its_choice() -> None:
    def about(name: str) -> str:
        if name == "bad":
            raise LoraFormatError("'bad' is damaged.")
        return "HYPIR. Licence: <b>its own</b>." if name == "hypir" else ""

    lists = ModelLists(
        bases=lambda: ["base"], loras=lambda: ["plain", "hypir", "bad"], decoders=lambda: ["full"], about_lora=about
    )
    assert lists.origin("plain") == lists.origin(None) == ""
    assert "HYPIR. Licence: &lt;b&gt;its own" in lists.origin("hypir")
    assert "dfosd-problem" in lists.origin("bad")
    with gr.Blocks() as page:
        build_panel(HeldEngine(), lists, results=Path(), previews=Path())
    shown = [block for block in page.blocks.values() if getattr(block, "elem_id", "") == "dfosd_origin"]
    assert len(shown) == 1


def test_run_shows_progress_then_offers_the_result(panel: Panel, photo: Photo, engine: HeldEngine) -> None:
    engine.go.clear()
    steps: list[tuple[Any, ...]] = []
    for step in panel.run([str(photo())], "", "", "", *DEFAULTS):
        steps.append(step)
        engine.go.set()
    assert 'role="progressbar"' in steps[0][STATUS]
    assert (steps[0][START]["interactive"], steps[0][STOP]["interactive"]) == (False, True)
    last = steps[-1]
    assert "Done in" in last[STATUS]
    assert [Path(path).name for path in last[OFFERED]["value"]] == ["photo_x4.png"]
    assert (last[START]["interactive"], last[STOP]["interactive"]) == (True, False)
    assert any("data:image/webp" in step[VIEW] for step in steps if isinstance(step[VIEW], str))


def test_batch_offers_the_zip_first_and_a_choice_of_views(panel: Panel, photo: Photo) -> None:
    steps = run(panel, [str(photo("a.png")), str(photo("b.png"))])
    assert [Path(path).name for path in steps[-1][OFFERED]["value"]] == ["dfosd.zip", "a_x4.png", "b_x4.png"]
    pairs = [step[PAIRS] for step in steps if isinstance(step[PAIRS], list)][-1]
    assert "a.png" in Panel.show(pairs, "a_x4.png")


def test_stop_button_ends_the_run_of_its_ticket(panel: Panel, photo: Photo, engine: HeldEngine) -> None:
    engine.go.clear()
    steps = panel.run([str(photo())], "", "", "", *DEFAULTS)
    ticket = next(steps)[TICKET]
    assert engine.begun.wait(20)
    panel.stop("another")
    panel.stop(ticket)
    engine.go.set()
    last = list(steps)[-1]
    assert "Stopped after" in last[STATUS]
    assert last[OFFERED]["value"] is None
    assert engine.tiles == 1


def test_closed_page_stops_its_run(panel: Panel, photo: Photo, engine: HeldEngine) -> None:
    engine.go.clear()
    steps = panel.run([str(photo())], "", "", "", *DEFAULTS)
    next(steps)
    assert engine.begun.wait(20)
    steps.close()  # type: ignore[attr-defined]
    engine.go.set()
    for thread in threading.enumerate():
        if thread.name == "dfosd-run":
            thread.join(20)
    assert engine.tiles < TILES


def test_run_without_files_says_so(panel: Panel) -> None:
    (only,) = run(panel, None)
    assert "Choose a picture first." in only[STATUS]


def test_run_with_a_wrong_setting_says_which(panel: Panel, photo: Photo) -> None:
    (only,) = run(panel, [str(photo())], long_edge="9", short_edge="9")
    assert "Give only one of them." in only[STATUS]


def test_upload_tells_what_will_become_of_it(panel: Panel, photo: Photo) -> None:
    shown, status = panel.look([str(photo())], *DEFAULTS)
    assert "data:image/webp" in shown
    assert "photo.png: 9×6 → 36×24" in status


def test_upload_that_is_no_image_is_refused_at_once_without_its_folder(panel: Panel, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("hello")
    shown, status = panel.look([str(tmp_path / "notes.png")], *DEFAULTS)
    assert "Drop a picture" in shown
    assert "&#x27;notes.png&#x27; is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image." in status
    assert str(tmp_path) not in status


def test_upload_that_is_too_large_is_refused_at_once(engine: HeldEngine, photo: Photo, tmp_path: Path) -> None:
    path = photo()
    with path.open("ab") as file:
        file.truncate(3_000_000)
    small = Panel(Workplace(engine=engine, results=tmp_path, previews=tmp_path, limits=Limits(file_mb=2)))
    expected = "&#x27;photo.png&#x27; has 3 MB; at most 2 MB are taken. Save it smaller."
    assert expected in small.summary([str(path)], *DEFAULTS)


def test_picture_beyond_the_limits_is_not_decoded_to_be_shown(
    engine: HeldEngine, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(_: Path) -> Any:
        pytest.fail("decoded")

    monkeypatch.setattr(panel_module, "thumbnail_url", decode)
    small = Panel(Workplace(engine=engine, results=tmp_path, previews=tmp_path, limits=Limits(megapixels=1)))
    shown, status = small.look([str(photo(width=900, height=900))], *DEFAULTS)
    assert "Drop a picture" in shown
    assert "at most 1 are made" in status


def test_uploads_are_decoded_one_at_a_time(panel: Panel, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [0], [0]

    def decode(_: Path) -> tuple[str, tuple[int, int]]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return "", (6, 9)

    monkeypatch.setattr(panel_module, "thumbnail_url", decode)
    path = str(photo())
    threads = [threading.Thread(target=panel.look, args=([path], *DEFAULTS)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1]


def test_uploads_are_looked_at_in_the_queue() -> None:
    with gr.Blocks() as page:
        made = build_panel(HeldEngine(), None, results=Path(), previews=Path())
    looks = [call for call in page.fns.values() if getattr(call.fn, "__func__", None) is Panel.look]
    assert [call.queue for call in looks] == [True]
    assert made.in_use() == []


def test_stop_is_as_wide_as_the_button_beside_it() -> None:
    with gr.Blocks() as page:
        build_panel(HeldEngine(), None, results=Path(), previews=Path(), prefix="x")
    buttons = {block.elem_id: block for block in page.blocks.values() if isinstance(block, gr.Button)}
    start, stop = buttons["x_start"], buttons["x_stop"]
    assert start.min_width == stop.min_width
    assert (start.interactive, stop.interactive) == (True, False)


def test_upload_that_is_gone_is_named(panel: Panel, tmp_path: Path) -> None:
    status = panel.summary([str(tmp_path / "gone.png")], *DEFAULTS)
    assert "&#x27;gone.png&#x27; is no longer here. Upload it again." in status


@pytest.mark.parametrize("typed", ["9" * 5000, "9" * 300, "1e400", "nan", "-inf", "x" * 100_000, "\x1b[31m"])
def test_any_text_in_a_number_box_is_one_short_line(typed: str) -> None:
    values = [typed if name == "unet_tile" else default for name, default in zip(controls.ORDER, DEFAULTS, strict=True)]
    with pytest.raises(ConfigError, match="^Expected unet_tile a whole number from 0 to 8192, found ") as error:
        controls.settings_of(values)
    assert len(str(error.value)) < 150
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "given", [10**5000, -(10**5000), [1], {"a": 1}, b"1", True, float("nan")], ids=lambda value: type(value).__name__
)
def test_any_value_of_a_request_is_one_short_line(given: object) -> None:
    for name in ("unet_tile", "strength", "color_fix"):
        with pytest.raises(ConfigError, match=f"^Expected {name} ") as error:
            UpscaleSettings.from_values({name: given})
        assert len(str(error.value)) < 200


def test_many_uploads_are_summed_up(panel: Panel, photo: Photo) -> None:
    status = panel.summary([str(photo(f"{i}.png")) for i in range(9)], *DEFAULTS)
    assert status.count("→") == 5
    assert "and 4 more" in status


def test_file_names_cannot_become_markup(photo: Photo) -> None:
    path = photo()
    pair = Pair(
        name="<img src=x onerror=alert(1)>.png",
        result=path,
        size_before=(1, 1),
        size_after=(4, 4),
        seconds=1.0,
        before=path,
        after=path,
        preview_size=(4, 4),
    )
    for html in (view.compare(pair), view.before_only(pair.name, "", (1, 1)), view.summary([pair.name], [pair.name])):
        assert "<img src=x" not in html


def test_rarely_used_settings_are_folded_away() -> None:
    with gr.Blocks() as page:
        controls.draw_first("x")
        controls.draw_others("x")
    folds = [block for block in page.blocks.values() if isinstance(block, gr.Accordion)]
    assert [(fold.elem_id, fold.open) for fold in folds] == [("x_more", False)]
