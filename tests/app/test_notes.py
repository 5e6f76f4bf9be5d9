"""What is left out of a file is said to the person who uses the page, beside the result."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.held_engine import HeldEngine, end_of

from dfosd_core.app import view
from dfosd_core.app.engine import LocalEngine
from dfosd_core.app.model_files import EMBEDDED_BASE, EMBEDDED_LORA, ModelFiles
from dfosd_core.app.notes import notes_taken, short_notes
from dfosd_core.app.runner import Request, Run, UpscaleFile

MakeRun = Callable[..., Run]
Photo = Callable[..., Path]
logger = logging.getLogger("dfosd")


@contextmanager
def talking_engine(request: Request) -> Iterator[UpscaleFile]:
    """Says of each `a*` what it leaves out, as readers and writers do, and of others nothing."""
    with HeldEngine()(request) as upscale:

        def upscale_file(source: Path, target: Path, progress: object) -> tuple[int, int]:
            if source.name.startswith("a"):
                logger.warning("'%s': left out: <b>EXIF</b> (damaged).", source)
                logger.warning("'%s': PNG has no place for: the place on earth.", target)
                logger.warning("'%s': left out: <b>EXIF</b> (damaged).", source)
                logger.info("not for people")
            return upscale(source, target, lambda _: None)

        yield upscale_file


def test_notes_stand_beside_the_result_of_their_file(make_run: MakeRun, photo: Photo) -> None:
    run = make_run(photo("a.png"), photo("b.png"), photo("a2.png"))
    run = replace(run, workplace=replace(run.workplace, engine=talking_engine))
    run.start()
    end = end_of(run)
    assert [pair.notes for pair in end.pairs[:2]] == [
        ("Left out: <b>EXIF</b> (damaged).", "PNG has no place for: the place on earth."),
        (),
    ]
    shown = view.compare(end.pairs[0])
    assert '<div class="dfosd-notes" role="note"><p>Left out: &lt;b&gt;EXIF' in shown
    assert "role" not in view.compare(end.pairs[1])
    assert "<p>See the notes beside a.png, a2.png.</p>" in view.progress(end, 1.0)
    assert "notes beside" not in view.progress(replace(end, files=1), 1.0)
    many = replace(end, pairs=(end.pairs[0],) * 8, files=8)
    assert "a.png and 3 more.</p>" in view.progress(many, 1.0)


def test_embedded_model_says_what_it_leaves_out(make_run: MakeRun, tmp_path: Path) -> None:
    source = tmp_path / "photo.jpg"
    Image.new("RGB", (6, 5)).save(source, exif=b"Exif\0\0garbage", comment=b"mine")
    run = make_run(source)
    run = replace(
        run,
        workplace=replace(run.workplace, engine=LocalEngine(ModelFiles(), torch.device("cpu"))),
        request=replace(run.request, base=EMBEDDED_BASE, lora=EMBEDDED_LORA),
    )
    run.start()
    assert [pair.notes for pair in end_of(run).pairs] == [("Left out: EXIF (damaged).",)]


def test_other_threads_are_not_listened_to() -> None:
    before = list(logger.handlers)
    with notes_taken() as lines:
        other = threading.Thread(target=logger.warning, args=("theirs",))
        other.start()
        other.join()
        logger.warning("mine")
    logger.warning("later")
    assert (lines, logger.handlers) == (["mine"], before)


def test_notes_are_printable_and_name_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "a\x1b.png"
    lines = [f"'{file}': left out: x.", f"smaller tiles for '{file}'"]
    assert short_notes(lines, file) == ("Left out: x.", "Smaller tiles for 'a\\x1b.png'")


def test_name_too_long_for_its_result_ends_no_run(make_run: MakeRun, photo: Photo, tmp_path: Path) -> None:
    name = "n" * 251 + ".png"
    try:
        long = photo(name)
    except OSError as error:
        pytest.skip(f"this system has no such names ({error})")
    run = make_run(long, photo("b.png"))
    run.start()
    end = end_of(run)
    assert (end.state, [pair.name for pair in end.pairs], len(end.problems)) == ("done", ["b.png"], 1)
    assert end.problems[0].startswith("'nnn")
    assert str(tmp_path) not in end.problems[0]
