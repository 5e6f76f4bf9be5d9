"""The log: nothing lost but a torn line, nothing twice after a resume, and pictures a person can read."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train_tools.loop import logbook as module
from train_tools.loop.logbook import Logbook, read_log
from train_tools.loop.plots import CHANCE, PANELS, draw_run, smoothed


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_log(path / "metrics.jsonl")]


def test_rows_are_on_disk_at_once_and_read_back(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 0)
    book.log(10, {"loss/mse": 0.25, "lr/generator": 1e-4})
    book.log(20, {"loss/mse": 0.125})
    assert read_log(tmp_path / "metrics.jsonl") == [
        {"step": 10, "loss/mse": 0.25, "lr/generator": 1e-4},
        {"step": 20, "loss/mse": 0.125},
    ]
    book.close()


def test_damaged_rows_are_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A good checkpoint is not lost over them."""
    rows = [
        '{"step": 10, "loss/mse": 0.5}',
        '{"step": 20, "lo',
        "\\0\\0",
        "[1]",
        "5",
        '{"loss/mse": 1}',
        '{"step": "x"}',
    ]
    rows += ['{"step": 30, "loss/mse": "x"}', "[" * 9999, "9" * 5000, '{"step": 40, "loss/mse": null}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, ""]))
    book = Logbook(tmp_path, 40)
    book.log(50, {"loss/mse": 0.25})
    book.close()
    assert steps(tmp_path) == [10, 40, 50]


def test_resume_drops_later_rows_and_a_torn_last_line(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 0)
    for step in (10, 20, 30, 40):
        book.log(step, {"loss/mse": 1 / step})
    # Killed in the middle of a line: the object is dropped without close.
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 50, "loss/m')
    again = Logbook(tmp_path, 30)
    assert steps(tmp_path) == [10, 20, 30]
    again.log(40, {"loss/mse": 0.5})
    assert steps(tmp_path) == [10, 20, 30, 40]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []
    for one in (book, again):
        one.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_log_cut_anywhere_reads_as_its_whole_rows(tmp_path: Path, cut: int) -> None:
    lines = [json.dumps({"step": step, "loss/mse": 0.5}) for step in (1, 2, 3)]
    text = "\n".join(lines) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text[:-cut])
    assert steps(tmp_path) == [1, 2, 3][: text[:-cut].count("\n")]


def test_fresh_start_begins_an_empty_log(tmp_path: Path) -> None:
    for _ in range(2):
        book = Logbook(tmp_path, 0)
        book.log(0, {"val/PSNR-Y": 20.0})
        book.close()
    assert steps(tmp_path) == [0]


def test_value_that_is_no_number_stays_readable_json(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 0)
    book.log(1, {"grad/generator": math.inf, "loss/mse": 0.5})
    book.close()
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 1, "grad/generator": None, "loss/mse": 0.5}]
    assert (tmp_path / "loss.png").is_file()


def test_tensorboard_shows_scalars_and_images_and_hides_what_a_resume_repeats(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 0)
    for step in (10, 20, 30):
        book.log(step, {"loss/mse": float(step)})
    book.images(20, "validation", torch.rand(3, 8, 12))
    book.close()
    time.sleep(1.1)  # TensorBoard orders the files by the second in their names
    again = Logbook(tmp_path, 20)
    again.log(30, {"loss/mse": 99.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/mse")] == [(10, 10.0), (20, 20.0), (30, 99.0)]
    (image,) = events.Images("validation")
    assert (image.step, image.width, image.height) == (20, 12, 8)


def test_plot_is_drawn_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "draw_run", lambda series: drawn.append(now[0]) or Image.new("RGB", (2, 2)))
    book = Logbook(tmp_path, 0)
    for now[0] in (101.0, 129.0, 131.0, 140.0):
        book.log(int(now[0]), {"loss/mse": 1.0})
    assert drawn == [131.0]
    book.close()
    assert drawn == [131.0, 140.0]


def test_all_panels_are_drawn_for_a_whole_run() -> None:
    names = [name for panel in PANELS for name in panel.curves]
    whole = draw_run({name: ([0, 10, 20], [1.0, 0.5, 0.25]) for name in names})
    short = draw_run({"loss/mse": ([10], [1.0])})
    assert whole.size == (4 * short.width, 3 * short.height)  # ten panels, against one
    assert np.asarray(whole.convert("L")).std() > 10


def test_chance_of_the_discriminator_is_two_ln_two() -> None:
    fooled = torch.nn.functional.softplus(torch.zeros(())).item()  # both logits 0
    assert pytest.approx(2 * fooled) == CHANCE
    assert [panel.title for panel in PANELS if CHANCE in panel.lines.values()] == ["discriminator"]


def test_smoothing_keeps_a_constant_and_a_lines_middle() -> None:
    assert smoothed([2.0] * 9).tolist() == [2.0] * 9
    line = smoothed(list(range(401)))
    assert line[200] == pytest.approx(200)
    assert smoothed([1.0]).tolist() == [1.0]
