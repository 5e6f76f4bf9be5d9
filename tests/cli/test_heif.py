"""HEIC: read where pillow-heif is installed, named where it is not."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files.heif import is_heif
from dfosd_core.image_files.read import decode_image, decode_size

HEAD = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"


def test_heic_is_told_by_its_brands() -> None:
    assert is_heif(HEAD + b"\0" * 60)
    assert is_heif(HEAD.replace(b"ftypheic", b"ftypmif1"))
    assert not is_heif(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf")
    assert not is_heif(b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageFileError) as caught:
        decode_image(HEAD + b"\0" * 60, "a.heic")
    assert str(caught.value) == ("'a.heic' is a HEIC file. Install pillow-heif to read it, or save it as PNG or JPEG.")


def test_photograph_is_read_upright_with_its_exif() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    samples = np.zeros((48, 72, 3), np.uint8)
    samples[:24], samples[24:, :36] = (200, 30, 30), (20, 200, 30)
    exif, file = Image.Exif(), io.BytesIO()
    exif[274], exif[271] = 6, "Camera"
    pillow_heif.from_pillow(Image.fromarray(samples)).save(file, quality=90, exif=exif.tobytes())
    picture = decode_image(file.getvalue(), "a.heic")
    assert picture.size == decode_size(file.getvalue(), "a.heic") == (72, 48)
    assert np.abs(picture.samples[5, -5].astype(int) - (200, 30, 30)).max() <= 4
    assert np.abs(picture.samples[5, 5].astype(int) - (20, 200, 30)).max() <= 4
    assert b"Camera" in (picture.metadata.exif or b"")
    for length in (40, len(file.getvalue()) // 2):
        with pytest.raises(ImageFileError, match="^'a.heic' is damaged"):
            decode_image(file.getvalue()[:length], "a.heic")
