"""Animations and documents, frame by frame and page by page, into the same kind of file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.pngs import chunk, with_chunks
from support.tiny_models import random_lora, tiny_host

from dfosd_core.attach import attached
from dfosd_core.errors import ImageFileError
from dfosd_core.image_files.animation import open_animation
from dfosd_core.image_files.icc import SRGB_PRIMARIES, curve, make_profile
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.read import decode_image, read_image, read_size
from dfosd_core.image_files.side_data import SideData
from dfosd_core.image_files.write import check_target, write_image
from dfosd_core.settings import UpscaleSettings
from dfosd_core.tiles.run import Progress
from dfosd_core.upscale_file import upscale_picture

COLORS = ("red", "lime", "blue", "white")
DURATIONS = (90, 40, 200, 1000)
ANIMATED = ("a.gif", "a.png", "a.webp", "a.avif")


def animation(path: Path, mode: str = "RGB", **options: Any) -> Path:
    """Four frames: a square with a hole that moves, on `COLORS`; with alpha, on nothing."""
    frames: list[Image.Image] = []
    for number, color in enumerate(COLORS):
        frame = Image.new(mode, (16, 12), color if mode == "RGB" else (0, 0, 0, 0))
        hole = frame.crop((0, 0, 2, 2))
        frame.paste("black", (3 * number, 2, 3 * number + 6, 8))
        frame.paste(hole, (3 * number + 2, 4))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=list(DURATIONS), **options)
    return path


def frames_of(picture: Picture) -> list[Any]:
    assert picture.sequence is not None
    return [picture.samples, *(frame.samples for frame in picture.sequence.following)]


def doubled(picture: Picture) -> Picture:
    """As if upscaled."""

    def double(frame: Picture) -> Picture:
        return replace(frame, samples=frame.samples.repeat(2, 0).repeat(2, 1))

    sequence = picture.sequence
    assert sequence is not None
    return replace(double(picture), sequence=replace(sequence, following=tuple(map(double, sequence.following))))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("target", ANIMATED)
@pytest.mark.parametrize("source", ANIMATED)
def test_animation_keeps_its_frames_and_timing(tmp_path: Path, source: str, target: str, mode: str) -> None:
    given = read_image(animation(tmp_path / source, mode), sequences=True)
    assert read_size(tmp_path / source) == (12, 16)
    check_target(tmp_path / target, given, (24, 32))
    write_image(tmp_path / f"larger_{target}", doubled(given))
    found = read_image(tmp_path / f"larger_{target}", sequences=True)
    assert given.sequence is not None
    assert found.sequence is not None
    assert given.sequence.durations == found.sequence.durations == DURATIONS
    tolerance = {"a.webp": 100, "a.avif": 40}.get(target, 0)  # colours beside a sharp edge
    for expected, frame in zip(frames_of(doubled(given)), frames_of(found), strict=True):
        assert frame.shape[:2] == (24, 32)
        seen = np.ones((24, 32, 1), bool) if frame.shape[2] == 3 else expected[..., 3:] > 0
        assert np.abs((expected[..., :3].astype(int) - frame[..., :3]) * seen).max() <= tolerance
        if mode == "RGBA":
            assert np.array_equal(frame[..., 3] > 127, expected[..., 3] > 127)


@pytest.mark.parametrize("target", ["b.gif", "b.png", "b.webp"])
@pytest.mark.parametrize("source", ["a.gif", "a.png", "a.webp"])
@pytest.mark.parametrize("plays", [0, 1, 3])
def test_animation_is_shown_as_often(tmp_path: Path, source: str, target: str, plays: int) -> None:
    again: dict[int, dict[str, Any]] = {0: {"loop": 0}, 1: {}, 3: {"loop": 2}}
    loop: dict[str, Any] = again[plays] if source == "a.gif" else {"loop": plays}
    given = read_image(animation(tmp_path / source, **loop), sequences=True)
    write_image(tmp_path / target, given)
    found = read_image(tmp_path / target, sequences=True)
    assert given.sequence is not None
    assert found.sequence is not None
    assert (given.sequence.plays, found.sequence.plays) == (plays, plays)


@pytest.mark.parametrize("target", ["b.jpg", "b.tif", "b.bmp"])
def test_animation_is_refused_where_there_is_one_picture(tmp_path: Path, target: str) -> None:
    given = read_image(animation(tmp_path / "a.gif"), sequences=True)
    with pytest.raises(ImageFileError) as caught:
        check_target(tmp_path / target, given, (12, 16))
    name = {"b.jpg": "JPEG", "b.tif": "TIFF", "b.bmp": "BMP"}[target]
    assert str(caught.value) == (
        f"'{tmp_path / target}': the input has 4 frames, and {name} holds one. "
        "Write .png or .webp or .avif or .gif instead."
    )


def test_too_many_frames_are_refused_before_and_after(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif")
    given = read_image(path, sequences=True)
    with pytest.raises(
        ImageFileError, match=r"4 frames of 20000x15000 are 3.6 GB, at most 2 GB are made\. Use a smaller"
    ):
        check_target(tmp_path / "b.png", given, (15000, 20000))
    many = [Image.new("1", (6000, 5000), number % 2) for number in range(4)]
    many[0].save(path, save_all=True, append_images=many[1:])
    with pytest.raises(ImageFileError, match=r"has 120 megapixels \(6000x5000 4 times\); at most 100 megapixels"):
        read_image(path, sequences=True)


def test_colours_and_texts_of_an_animated_png_are_kept(tmp_path: Path) -> None:
    profile = make_profile("a", curve(1.0), SRGB_PRIMARIES)
    animation(tmp_path / "a.png", icc_profile=profile)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(with_chunks(data, chunk(b"tEXt", b"Title\0me")))
    given = read_image(tmp_path / "a.png", sequences=True)
    assert given.metadata.text == (("Title", "me"),)
    for name in ("b.png", "b.webp", "b.avif"):
        write_image(tmp_path / name, given)
        assert read_image(tmp_path / name, sequences=True).metadata.icc_profile == profile
    write_image(tmp_path / "b.gif", given)  # which gets the colours themselves
    linear = read_image(tmp_path / "a.png", sequences=True).samples
    assert np.array_equal(frames_of(read_image(tmp_path / "b.gif", sequences=True))[0], linear)  # 0 and 255 stay


def test_still_picture_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    still, *frames = (Image.new("RGB", (8, 8), color) for color in COLORS)
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=50)
    found = read_image(tmp_path / "a.png", sequences=True)
    assert [frame[0, 0].tolist() for frame in frames_of(found)] == [[0, 255, 0], [0, 0, 255], [255, 255, 255]]
    assert found.metadata.lost == ("the picture for programs without animations",)


def test_written_png_is_what_pillow_calls_one(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png", read_image(animation(tmp_path / "a.gif"), sequences=True))
    image = Image.open(tmp_path / "b.png")
    assert getattr(image, "n_frames", 1) == 4
    assert not image.info.get("default_image")
    image.seek(3)
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def pages(path: Path, kinds: list[Any]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for number, kind in enumerate(kinds):
            shape = (10 + number, 12, 3)
            samples = np.random.default_rng(number).integers(0, np.iinfo(kind).max, shape, kind)
            file.write(
                samples if number != 1 else samples[..., 0], metadata=None, resolution=(300, 300), resolutionunit=2
            )
    return path


def test_pages_keep_their_samples_sizes_and_resolution(tmp_path: Path) -> None:
    given = read_image(pages(tmp_path / "a.tif", [np.uint8, np.uint16, np.uint16]), sequences=True)
    assert [frame.shape for frame in frames_of(given)] == [(10, 12, 3), (11, 12, 1), (12, 12, 3)]
    write_image(tmp_path / "b.tif", doubled(given))
    found = read_image(tmp_path / "b.tif", sequences=True)
    assert found.sequence is not None
    assert not found.sequence.is_animation
    for expected, frame in zip(frames_of(doubled(given)), frames_of(found), strict=True):
        assert frame.dtype == expected.dtype
        assert np.array_equal(frame, expected)
    assert [page.metadata.dpi for page in (found, *found.sequence.following)] == [(300, 300)] * 3
    with tifffile.TiffFile(tmp_path / "b.tif") as file:  # and for others
        assert [page.shape for page in file.pages] == [(20, 24, 3), (22, 24), (24, 24, 3)]
        assert np.array_equal(file.pages[2].asarray(), frames_of(doubled(given))[2])


def test_what_a_later_page_loses_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for channels in (3, 5, 5):
            options: Any = {"extrasamples": [0, 0]} if channels == 5 else {}
            file.write(np.zeros((8, 8, channels), np.uint8), photometric="rgb", metadata=None, **options)
    read_image(tmp_path / "a.tif", sequences=True)
    assert [record.message for record in caplog.records] == [f"'{tmp_path / 'a.tif'}': left out: 2 more channels."]


@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp"])
def test_pages_are_refused_where_there_are_none(tmp_path: Path, target: str) -> None:
    given = read_image(pages(tmp_path / "a.tif", [np.uint8, np.uint8]), sequences=True)
    with pytest.raises(
        ImageFileError, match=r"the input has 2 pages, and \w+ holds one\. Write \.tif or \.tiff instead\."
    ):
        check_target(tmp_path / target, given, (10, 12))


def test_who_takes_single_pictures_refuses_them(tmp_path: Path) -> None:
    for path, what in (
        (animation(tmp_path / "a.gif"), "is animated (4 frames)"),
        (pages(tmp_path / "a.tif", [np.uint8, np.uint8]), "holds 2 pages"),
    ):
        with pytest.raises(ImageFileError) as caught:
            decode_image(path.read_bytes(), "a")
        assert str(caught.value) == f"'a' {what}; only single images can be upscaled here. Save one as a PNG."


def test_each_frame_is_upscaled_as_a_picture_is(tmp_path: Path) -> None:
    given = read_image(animation(tmp_path / "a.gif"), sequences=True)
    seen: list[Progress] = []
    host = tiny_host()
    lora, settings = random_lora(host), UpscaleSettings(scale=2.0)
    with attached(host, lora, settings) as host:
        options: Any = {"host": host, "lora": lora, "settings": settings, "device": torch.device("cpu")}
        larger = upscale_picture(given, seen.append, **options)
        alone = [upscale_picture(Picture(samples=frame), lambda _: None, **options) for frame in frames_of(given)]
    assert all(np.array_equal(frame, one.samples) for frame, one in zip(frames_of(larger), alone, strict=True))
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == seen[-1].total == 4 * 3


def test_damaged_animation_is_named(tmp_path: Path) -> None:
    for name in ANIMATED:
        data = animation(tmp_path / name).read_bytes()
        with pytest.raises(ImageFileError, match="^'a' is "):
            decode_image(data[: len(data) * 2 // 3], "a", sequences=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_of_an_animation_is_that_of_its_upright_frames(tmp_path: Path, orientation: int) -> None:
    image = Image.open(animation(tmp_path / "a.gif"))
    exif = Image.Exif()
    exif[0x112] = orientation
    opened = open_animation(image, SideData(exif=exif))
    assert opened.size == opened.decode().size == ((16, 12) if orientation >= 5 else (12, 16))


def test_frame_without_a_duration_has_none(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in COLORS]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    sequence = read_image(tmp_path / "a.gif", sequences=True).sequence
    assert sequence is not None
    assert sequence.durations == (0.0,) * 4
