from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dfosd_core import files, pipeline
from dfosd_core.hosts.own import OwnHost
from dfosd_core.image_files.picture import Picture, Samples
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.tensors import to_picture, to_tensor

Run = Callable[..., tuple[int, str, str]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_photo_becomes_four_times_larger_and_the_end_says_where(run: Run, photo: Path) -> None:
    code, out, err = run(photo)
    target = photo.with_name("photo_x4.png")
    assert (code, err) == (0, "")
    assert out.startswith(f"{photo} -> {target} (36x28, ")
    assert Image.open(target).size == (36, 28)


def test_settings_reach_the_pipeline(run: Run, photo: Path) -> None:
    assert run(photo, "--long-edge", "30", "--unet-tile", "0", "--color-fix", "none", "--quiet") == (
        0,
        "",
        "",
    )
    plain = np.asarray(Image.open(photo.with_name("photo_long30.png")))
    assert plain.shape == (23, 30, 3)
    run(photo, "--long-edge", "30", "--color-fix", "none", "--strength", "0", "--overwrite")
    assert not np.array_equal(np.asarray(Image.open(photo.with_name("photo_long30.png"))), plain)


def test_grey_16_bit_and_transparent_inputs_stay_so(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (5, 6), np.uint8)).save(tmp_path / "grey.jpg")
    Image.fromarray(rng.integers(0, 256, (5, 6, 4), np.uint8)).save(tmp_path / "clear.webp")
    tifffile.imwrite(tmp_path / "fine.tif", rng.integers(0, 65536, (5, 6, 3), np.uint16), photometric="rgb")
    assert run(tmp_path, "--scale", "2", "-o", tmp_path / "out")[0] == 0
    grey, clear, fine = (read_image(tmp_path / "out" / f"{name}_x2.png") for name in ("grey", "clear", "fine"))
    assert (grey.is_grey, grey.is_16_bit, grey.size) == (True, False, (10, 12))
    assert (clear.has_alpha, clear.is_grey) == (True, False)
    assert (fine.is_16_bit, fine.is_grey) == (True, False)
    assert len(np.unique(fine.samples)) > 256


def test_bad_files_are_reported_and_the_rest_goes_on(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    code, out, err = run(tmp_path, tmp_path / "none.png")
    assert code == 1
    assert out.startswith(f"{photo} -> ")
    assert err.splitlines() == [
        f"dfosd: There is no file or folder '{tmp_path / 'none.png'}'.",
        f"dfosd: '{tmp_path / 'a.png'}' is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image.",
    ]
    assert names(tmp_path) == ["a.png", "photo.png", "photo_x4.png"]


def test_second_run_touches_nothing_and_says_so(run: Run, photo: Path) -> None:
    run(photo)
    target = photo.with_name("photo_x4.png")
    before = target.stat().st_mtime_ns
    assert run(photo) == (
        1,
        "",
        f"dfosd: '{target}' exists and was not touched. Use --overwrite to replace it.\n",
    )
    assert target.stat().st_mtime_ns == before
    assert run(photo, "--overwrite")[0] == 0
    assert target.stat().st_mtime_ns > before


def test_exact_size_and_megapixels(run: Run, photo: Path) -> None:
    """A 9x7 image."""
    assert run(photo, "--width", "32", "--height", "32")[0] == 0
    assert run(photo, "--width", "64", "--height", "32", "--fit", "pad")[0] == 0
    with Image.open(photo.with_name("photo_32x32crop.png")) as image:
        assert image.size == (32, 32)
    with Image.open(photo.with_name("photo_64x32pad.png")) as image:
        assert image.size == (64, 32)
        assert image.convert("RGB").getpixel((0, 16)) == (0, 0, 0)
    code, _, err = run(photo, "--megapixels", "0.5")
    assert code == 1
    assert err.count("\n") == 1
    assert "Expected megapixels from 6.3e-05 to 0.00403 for a 9x7 image" in err


def test_size_out_of_reach_names_the_file(run: Run, photo: Path) -> None:
    code, _, err = run(photo, "--long-edge", "1000")
    assert code == 1
    assert err == (
        f"dfosd: '{photo}': Expected a long_edge from 9 to 72 for a 9x7 image (1 to 8 times its own), "
        "found 1000. Change long_edge or use scale.\n"
    )


def test_transparency_into_jpeg_is_refused_before_computing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "upscale_attached", None)
    Image.new("RGBA", (4, 4), (1, 2, 3, 4)).save(tmp_path / "a.png")
    code, _, err = run(tmp_path / "a.png", "-o", tmp_path / "b.jpg")
    assert code == 1
    assert "JPEG cannot hold the input's transparency. Write .png, .webp or .tiff instead." in err


def test_lora_is_merged_once_for_the_batch(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merges: list[float] = []
    original = OwnHost.lora

    def counted(self: OwnHost, lora: Any, strength: float) -> Any:
        merges.append(strength)
        return original(self, lora, strength)

    monkeypatch.setattr(OwnHost, "lora", counted)
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (4, 4), "teal").save(tmp_path / name)
    assert run(tmp_path, "--strength", "0.5")[0] == 0
    assert merges == [0.5]


def test_no_second_copy_of_the_weights_is_held(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []

    @contextmanager
    def noted(*_: object, restores: bool) -> Iterator[None]:
        found.append(restores)
        yield

    monkeypatch.setattr("dfosd_core.hosts.own.merged", noted)
    assert run(photo)[0] == 0
    assert run(photo, "--dry-run", "--overwrite")[0] == 0
    assert found == [False, False]


def fail_in_fsync(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(files.os, "fsync", fail)


def test_full_disk_leaves_nothing_and_is_named(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_in_fsync(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    code, out, err = run(photo)
    assert (code, out) == (1, "")
    assert err == f"dfosd: '{photo.with_name('photo_x4.png')}' cannot be written: the disk is full.\n"
    assert names(photo.parent) == ["photo.png"]


def test_interruption_while_writing_leaves_the_old_file(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = photo.with_name("photo_x4.png")
    target.write_text("old")
    fail_in_fsync(monkeypatch, KeyboardInterrupt())
    code, out, err = run(photo, "--overwrite")
    assert (code, out) == (130, "")
    assert err == "dfosd: stopped; 0 of 1 images are done, 1 left, no half file.\n"
    assert target.read_text() == "old"
    assert names(photo.parent) == ["photo.png", "photo_x4.png"]


def test_result_that_appears_meanwhile_is_not_touched(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = photo.with_name("photo_x4.png")
    monkeypatch.setattr(files.os, "fsync", lambda _: target.write_text("other"))
    code, _, err = run(photo)
    assert code == 1
    assert err == f"dfosd: '{target}' exists by now and was not touched. Use --overwrite to replace it.\n"
    assert names(photo.parent) == ["photo.png", "photo_x4.png"]
    assert target.read_text() == "other"


def test_out_of_memory_says_what_to_do(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(pipeline, "upscale_attached", fail)
    code, _, err = run(photo)
    assert code == 1
    assert err == f"dfosd: '{photo}': Out of memory. Free some memory or use a smaller scale.\n"


def test_overflow_is_an_error_and_no_black_image(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "upscale_attached", lambda image, *_: image * torch.inf)
    code, _, err = run(photo)
    assert code == 1
    assert err.startswith(f"dfosd: '{photo}': The networks' output is not finite (NaN): half precision overflows here.")
    assert names(photo.parent) == ["photo.png"]


def test_our_own_mistakes_are_not_hidden(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(pipeline, "upscale_attached", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(photo)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_between_files_without_a_half_one(
    tmp_path: Path, model: list[str], number: signal.Signals, code: int
) -> None:
    for index in range(1000):  # more than are done while this process waits for its turn
        Image.new("RGB", (8, 8), (index % 256, 0, 0)).save(tmp_path / f"{index:03}.png")
    command = [
        sys.executable,
        "-m",
        "dfosd_core.cli",
        "upscale",
        str(tmp_path),
        "-o",
        str(tmp_path / "out"),
        *model,
    ]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, and so perhaps these tests, with SIGINT ignored; children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "000_x4.png" in process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "of 1000 images are done" in err
    written = names(tmp_path / "out")
    assert 1 <= len(written) < 1000
    for name in written:
        assert read_image(tmp_path / "out" / name).size == (32, 32)


@given(
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 9),
)
def test_samples_survive_the_way_through_floats(dtype: Any, channels: int, h: int, w: int, seed: int) -> None:
    top = int(np.iinfo(dtype).max)
    samples = cast("Samples", np.random.default_rng(seed).integers(0, top + 1, (h, w, channels), dtype))
    picture = Picture(samples=samples)
    image = to_tensor(picture)
    assert image.shape == (1, h, w, 3 if channels in (1, 3) else 4)
    assert np.array_equal(to_picture(image, like=picture).samples, samples)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    width=st.integers(1, 24),
    height=st.integers(1, 24),
    scale=st.floats(1, 8).map(lambda scale: round(scale, 2)),
    tile=st.sampled_from([None, 0, 32, 64]),
    ending=st.sampled_from(["png", "tif", "webp"]),
)
def test_any_image_comes_out_in_the_asked_size(
    run: Run, tmp_path: Path, mode: str, width: int, height: int, scale: float, tile: int | None, ending: str
) -> None:
    image = Image.new("RGB", (width, height), (200, 100, 50))
    image = Image.new(mode, image.size, 40000) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "a.png")
    tiles = [] if tile is None else ["--unet-tile", str(tile), "--vae-tile", str(tile)]
    target = tmp_path / f"b.{ending}"
    code, _, err = run(tmp_path / "a.png", "-o", target, "--scale", str(scale), "--overwrite", *tiles)
    assert (code, err) == (0, "")
    assert Image.open(target).size == (max(round(width * scale), 1), max(round(height * scale), 1))


def test_freed_memory_goes_back_before_smaller_tiles_are_taken(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the process keeps for its next layers counts as taken, though it is free for the next image."""
    given_back: list[bool] = []
    monkeypatch.setattr("dfosd_core.freed_memory.give_back_freed_memory", lambda: given_back.append(True))
    # The first time is after loading.
    monkeypatch.setattr("dfosd_core.memory.free_memory", lambda *_: 10**12 if len(given_back) > 1 else 1000)
    code, _, err = run(photo)
    assert (code, "are free" in err) == (0, False)
    assert given_back == [True, True]
