from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.write import write_image

SIDES = st.integers(1, 70)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    shape = (draw(SIDES), draw(SIDES), draw(st.integers(1, 4)))
    top = int(np.iinfo(dtype).max)
    return Picture(samples=draw(arrays(dtype, shape, elements=st.integers(0, top), fill=st.integers(0, top))))


@given(pictures(), st.sampled_from([".png", ".tif", ".webp", ".avif", ".jpg", ".gif", ".bmp"]))
def test_written_picture_reads_back(picture: Picture, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_image(path, picture)
        found = read_image(path)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]
    assert found.size == picture.size
    if suffix in (".jpg", ".bmp"):
        assert (found.is_grey, found.has_alpha, found.is_16_bit) == (picture.is_grey, False, False)
    elif suffix == ".gif":
        assert not found.is_16_bit
    elif suffix in (".webp", ".avif"):
        assert (found.is_grey, found.is_16_bit) == (False, False)
    elif suffix == ".tif" and picture.is_16_bit and picture.is_grey and picture.has_alpha:
        assert np.array_equal(found.samples, picture.with_three_colors().samples)
    else:
        assert np.array_equal(found.samples, picture.samples)
        assert found.samples.dtype == picture.samples.dtype
    if suffix == ".bmp":
        assert np.array_equal(found.samples, picture.to_8_bit().without_alpha().samples)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
LACKING = {"PNG": {"CMYK"}, "JPEG": {"LA", "P", "RGBA", "I;16"}, "BMP": {"LA", "CMYK", "I;16"}, "GIF": {"CMYK"}}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
KINDS = [(form, mode) for form in FORMATS for mode in MODES if mode not in LACKING.get(form, ())]


@given(st.sampled_from(KINDS), SIDES, SIDES)
def test_every_mode_that_a_format_has_is_read(kind: tuple[str, str], width: int, height: int) -> None:
    form, mode = kind
    image = Image.new("RGB", (width, height), (200, 100, 50))
    image = Image.new(mode, image.size, 40000) if mode == "I;16" else image.convert(mode)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        image.save(path, form)
        assert read_image(path).size == (height, width)


@given(st.binary(max_size=200))
@example(b"\x89PNG\r\n\x1a\n")
@example(b"II*\0\x08\0\0\0\xff\xff")
@example(b"MM\0*\0\0\0\x08\0\x01")
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    _assert_image_or_one_line(data)


@given(st.data(), st.sampled_from(["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"]), st.booleans())
def test_damaged_files_never_crash(data: st.DataObject, form: str, is_16_bit: bool) -> None:
    buffer = io.BytesIO()
    is_16_bit = is_16_bit and form in ("PNG", "TIFF")
    Image.new("I;16" if is_16_bit else "RGB", (20, 9), 300 if is_16_bit else "teal").save(buffer, form)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _assert_image_or_one_line(bytes(damaged))


def _assert_image_or_one_line(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(data)
        try:
            assert read_image(path).samples.size > 0
        except ImageFileError as error:
            complaint = str(error)
        else:
            return
    assert str(path) in complaint
    assert "\n" not in complaint
