"""A run over files: what it leaves behind when it ends well, is stopped, or meets what it cannot do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.held_engine import TILES, HeldEngine, end_of

from dfosd_core.app import view
from dfosd_core.app.limits import Limits
from dfosd_core.app.preview import Pair
from dfosd_core.app.runner import Engine, Run, Snapshot
from dfosd_core.errors import ImageFileError, LoraMismatchError
from dfosd_core.tiles.run import Progress
from dfosd_core.upscale_file import explain

MakeRun = Callable[..., Run]
Photo = Callable[..., Path]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def result(run: Run, name: str) -> Path:
    return run.folders[0] / name


def test_several_files_become_images_and_one_zip(make_run: MakeRun, photo: Photo, tmp_path: Path) -> None:
    run = make_run(photo("a.png"), photo("b.jpg", 7, 5))
    run.start()
    end = end_of(run)
    assert (end.state, end.problems, end.fraction) == ("done", (), 1.0)
    assert names(tmp_path / "results") == ["a_x4.png", "b_x4.png", "dfosd.zip"]
    assert end.archive is not None
    with zipfile.ZipFile(end.archive) as archive:
        assert archive.namelist() == ["a_x4.png", "b_x4.png"]
        assert archive.read("b_x4.png") == result(run, "b_x4.png").read_bytes()
    assert [pair.size_after for pair in end.pairs] == [(24, 36), (20, 28)]


def test_fraction_counts_tiles_and_files_that_are_done_or_have_failed(photo: Photo) -> None:
    pair = Pair(
        name="a",
        result=photo(),
        size_before=(1, 1),
        size_after=(4, 4),
        seconds=1.0,
        before=photo(),
        after=photo(),
        preview_size=(4, 4),
    )
    half = Progress(phase="unet", done=2, total=4)
    assert Snapshot(files=4).fraction == 0.0
    assert Snapshot(files=4, progress=half).fraction == 0.125
    assert Snapshot(files=4, progress=half, pairs=(pair,), problems=("b",)).fraction == 0.625
    assert Snapshot(files=2, pairs=(pair,), problems=("b", "and the zip")).fraction == 1.0
    third = Snapshot(state="running", files=5, name="c.png", progress=half, pairs=(pair,), problems=("b",))
    assert "50 % · c.png (3 of 5) · " in view.progress(third, 1.0)


def test_one_file_needs_no_zip(make_run: MakeRun, photo: Photo) -> None:
    run = make_run(photo())
    run.start()
    assert end_of(run).archive is None


def test_files_of_the_same_name_are_both_kept(make_run: MakeRun, photo: Photo, tmp_path: Path) -> None:
    run = make_run(photo(folder="one"), photo(width=8, folder="two"))
    run.start()
    end_of(run)
    assert names(tmp_path / "results") == ["dfosd.zip", "photo_x4.png", "photo_x4_2.png"]


def test_previews_are_equally_large(make_run: MakeRun, photo: Photo) -> None:
    run = make_run(photo())
    run.start()
    pair = end_of(run).pairs[0]
    for path in (pair.before, pair.after):
        with Image.open(path) as image:
            assert image.size == (36, 24)


def test_results_are_copied_to_the_kept_folder_and_replace_nothing(
    make_run: MakeRun, photo: Photo, tmp_path: Path
) -> None:
    (tmp_path / "kept" / "a_x4.png").write_bytes(b"older")
    run = make_run(photo("a.png"), photo("b.png"), keep=True)
    run.start()
    end_of(run)
    assert names(tmp_path / "kept") == ["a_x4.png", "a_x4_2.png", "b_x4.png"]
    assert (tmp_path / "kept" / "a_x4.png").read_bytes() == b"older"
    assert (tmp_path / "kept" / "b_x4.png").read_bytes() == result(run, "b_x4.png").read_bytes()


def test_each_run_has_folders_that_nobody_can_guess(make_run: MakeRun, photo: Photo, tmp_path: Path) -> None:
    """Two visitors with files of one name: neither the results nor the previews of one are the other's."""
    runs = [make_run(photo(folder="one")), make_run(photo(width=8, folder="two"))]
    for run in runs:
        run.start()
    pairs = [end_of(run).pairs[0] for run in runs]
    assert [pair.result.name for pair in pairs] == ["photo_x4.png"] * 2
    for part in ("result", "before", "after"):
        paths = [getattr(pair, part) for pair in pairs]
        assert len({path.parent for path in paths}) == 2
        assert all(len(path.parent.name) == 32 and path.parent.parent.parent == tmp_path for path in paths)
        assert all(path.parent.stat().st_mode & 0o077 == 0 for path in paths)


def test_no_room_is_told_and_nothing_is_computed(make_run: MakeRun, photo: Photo, engine: HeldEngine) -> None:
    asked: list[int] = []

    def refuse(wanted: int) -> None:
        asked.append(wanted)
        raise ImageFileError("There is no room.")

    run = make_run(photo())
    run = replace(run, workplace=replace(run.workplace, make_room=refuse))
    run.start()
    assert end_of(run).problems == ("'photo.png': There is no room.",)
    assert asked == [24 * 36 * 8]
    assert engine.tiles == 0


def test_stop_ends_within_one_tile_and_leaves_no_half_file(
    make_run: MakeRun, photo: Photo, engine: HeldEngine, tmp_path: Path
) -> None:
    engine.go.clear()
    run = make_run(photo("a.png"), photo("b.png"), keep=True)
    run.start()
    assert engine.begun.wait(20)
    run.stop()
    engine.go.set()
    assert end_of(run).state == "stopped"
    assert engine.tiles == 1
    assert names(tmp_path / "results") == names(tmp_path / "kept") == []


def test_stop_keeps_what_is_finished(make_run: MakeRun, photo: Photo, engine: HeldEngine, tmp_path: Path) -> None:
    engine.hold_at = TILES  # the second picture's first tile
    run = make_run(photo("a.png"), photo("b.png"), photo("c.png"))
    run.start()
    assert engine.held.wait(20)
    run.stop()
    engine.go.set()
    end = end_of(run)
    assert end.state == "stopped"
    assert [pair.result.name for pair in end.pairs] == ["a_x4.png"]
    assert names(tmp_path / "results") == ["a_x4.png"]


def test_runs_take_turns(make_run: MakeRun, photo: Photo, engine: HeldEngine) -> None:
    engine.go.clear()
    first, second = make_run(photo("a.png")), make_run(photo("b.png"))
    first.start()
    assert engine.begun.wait(20)
    second.start()
    assert second.now.state == "waiting"
    engine.go.set()
    assert (end_of(first).state, end_of(second).state) == ("done", "done")
    assert engine.most_inside == 1


def test_waiting_run_can_be_stopped(make_run: MakeRun, photo: Photo, engine: HeldEngine) -> None:
    engine.go.clear()
    first, second = make_run(photo("a.png")), make_run(photo("b.png"))
    first.start()
    assert engine.begun.wait(20)
    second.start()
    second.stop()
    assert end_of(second).state == "stopped"
    assert len(engine.requests) == 1
    engine.go.set()
    end_of(first)


def test_bad_file_is_named_and_the_others_are_done(make_run: MakeRun, photo: Photo) -> None:
    bad = photo("bad.png")
    bad.write_bytes(b"nothing")
    run = make_run(photo("a.png"), bad, photo("c.png"))
    run.start()
    end = end_of(run)
    assert [pair.name for pair in end.pairs] == ["a.png", "c.png"]
    assert end.problems == ("'bad.png' is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image.",)


def test_result_of_the_largest_size_is_made() -> None:
    Limits(megapixels=4).check_result("a", (2000, 2000))


def test_too_large_result_is_refused_before_computing(make_run: MakeRun, photo: Photo, engine: HeldEngine) -> None:
    run = make_run(photo(width=600, height=500), limits=Limits(megapixels=4))
    run.start()
    assert end_of(run).problems == (
        "'photo.png' would become 2400x2000, 5 megapixels; at most 4 are made. "
        "Choose a smaller scale or cut the image.",
    )
    assert engine.tiles == 0


def with_engine(run: Run, engine: Engine) -> Run:
    return replace(run, workplace=replace(run.workplace, engine=engine))


def test_engine_that_refuses_fails_the_run_with_its_line(make_run: MakeRun, photo: Photo) -> None:
    def refuse(_: object) -> Any:
        raise LoraMismatchError("The LoRA does not fit.")

    run = with_engine(make_run(photo()), refuse)
    run.start()
    end = end_of(run)
    assert (end.state, end.problems) == ("failed", ("The LoRA does not fit.",))


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 20 GiB", "DefaultCPUAllocator: can't allocate memory: you tried"]
)
def test_out_of_memory_says_what_helps(make_run: MakeRun, photo: Photo, words: str) -> None:
    def full(*_: object) -> Any:
        raise RuntimeError(words)

    run = with_engine(make_run(photo()), lambda _: nullcontext(full))
    run.start()
    assert end_of(run).problems == ("'photo.png': Out of memory. Free some memory or use a smaller scale.",)


def test_unforeseen_error_is_one_line_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert explain(ValueError("two\nlines")) == "Something unexpected went wrong: two lines. The log says more."
    assert "ValueError" in caplog.text


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    text = explain(OSError(28, "No space left on device"), tmp_path / "a.png")
    assert text == f"'{tmp_path / 'a.png'}': The result cannot be kept: the disk is full."
