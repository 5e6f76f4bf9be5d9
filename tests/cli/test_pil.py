"""Pillow's images as pictures and back, as hosts hand them over."""

from __future__ import annotations

import base64
import io
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture, Samples
from dfosd_core.image_files.pil import from_pil, to_pil
from dfosd_core.image_files.read import decode_image, decode_size
from dfosd_core.image_files.tensors import to_picture, to_tensor
from dfosd_core.image_files.write import encode_image

RNG = np.random.default_rng(2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_image_goes_there_and_back(mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (6, 5, 4), np.uint8)).convert(mode)
    assert to_pil(from_pil(image)) == image


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_grey_of_16_bits_keeps_them(mode: str) -> None:
    samples = RNG.integers(0, 65536, (6, 5), np.uint16)
    image = Image.frombytes(mode, (5, 6), samples.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    picture = from_pil(image)
    assert np.array_equal(picture.samples[..., 0], samples)
    back = to_pil(picture)
    assert back.mode == "I;16"
    assert np.array_equal(np.asarray(back), samples)


def test_grey_of_16_bits_is_read_from_32_as_old_pillows_have_it_and_no_more() -> None:
    assert from_pil(Image.fromarray(np.array([[0, 65535]], np.int32))).samples[..., 0].tolist() == [[0, 65535]]
    for wrong in (np.array([[65536]], np.int32), np.array([[-1]], np.int32), np.array([[0.5]], np.float32)):
        with pytest.raises(ImageFileError, match="32-bit or floating-point samples"):
            from_pil(Image.fromarray(wrong))


def test_transparent_grey_of_16_bits_becomes_alpha() -> None:
    image = Image.fromarray(np.array([[7, 8]], np.uint16))
    image.info["transparency"] = 7
    assert from_pil(image).samples.tolist() == [[[7, 0], [8, 65535]]]


def test_16_bits_that_pillow_lacks_become_8() -> None:
    samples = np.array([[[0, 257 * 100, 65535]]], np.uint16)
    assert np.asarray(to_pil(Picture(samples=samples))).tolist() == [[[0, 100, 255]]]


@pytest.mark.parametrize(("mode", "profile"), [("RGB", SRGB), ("RGBA", SRGB), ("L", GREY), ("I;16", GREY)])
def test_colour_profile_is_kept_and_written_by_pillow(mode: str, profile: bytes) -> None:
    image = Image.new(mode, (3, 2))
    image.info["icc_profile"] = profile
    larger = to_pil(from_pil(image))
    file = io.BytesIO()
    larger.save(file, "PNG")
    assert Image.open(file).info["icc_profile"] == profile


def test_profile_for_grey_does_not_stay_on_colour() -> None:
    picture = Picture(samples=np.zeros((2, 2, 1), np.uint8), metadata=ImageMetadata(icc_profile=GREY, dpi=(72, 72)))
    assert picture.with_three_colors().metadata == ImageMetadata(dpi=(72, 72))
    assert from_pil(to_pil(picture)).metadata.icc_profile == GREY


def test_palette_and_cmyk_become_colours() -> None:
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    assert from_pil(image.quantize(8)).samples[0, 0].tolist() == [200, 100, 50]
    assert from_pil(Image.new("CMYK", (4, 4), (0, 255, 255, 0))).samples[0, 0].tolist() == [255, 0, 0]
    clear = Image.new("P", (2, 1))
    clear.info["transparency"] = 0
    assert from_pil(clear).has_transparency


def test_image_is_turned_upright() -> None:
    image = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), np.uint8))
    image.getexif()[274] = 6
    assert from_pil(image).size == (5, 6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_file_in_base64_keeps_bits_and_profile(dtype: Any, channels: int) -> None:
    """The way of the WebUI's route."""
    samples = cast("Samples", RNG.integers(0, np.iinfo(dtype).max + 1, (6, 5, channels), dtype))
    given = Picture(samples=samples, metadata=ImageMetadata(icc_profile=GREY if channels < 3 else SRGB))
    file = io.BytesIO()
    encode_image(file, "PNG", given)
    data = base64.b64decode(base64.b64encode(file.getvalue()))
    assert decode_size(data, "image") == (6, 5)
    found = decode_image(data, "image")
    assert found.samples.dtype == dtype
    assert np.array_equal(found.samples, samples)
    assert found.metadata.icc_profile == given.metadata.icc_profile


def test_bytes_that_are_no_image_are_named() -> None:
    with pytest.raises(
        ImageFileError, match="^'image' is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image.$"
    ):
        decode_image(b"no image", "image")


def test_tensors_are_rounded_and_cut_off() -> None:
    image = torch.tensor([[[[-1.0, 0.5, 2.0]]]])
    assert to_picture(image).samples.tolist() == [[[0, 128, 255]]]
    like = Picture(samples=np.zeros((1, 1, 3), np.uint16))
    assert to_picture(image.half(), like=like).samples.tolist() == [[[0, 32768, 65535]]]


def test_grey_is_the_luma_of_the_colours() -> None:
    """Rec. 601; each weight by a colour of its own, and together they leave grey as it is."""
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        like = Picture(samples=np.zeros((1, 4, 1), dtype))
        image = torch.tensor([[[[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]]])
        expected = [round(weight * top) for weight in (0.299, 0.587, 0.114, 1.0)]
        assert to_picture(image, like=like).samples[0, :, 0].tolist() == expected


def test_16_bits_are_rounded_to_the_nearest() -> None:
    like = Picture(samples=np.zeros((1, 1, 1), np.uint16))
    for value in (1, 2, 300, 32767, 65534):
        for part, expected in ((-0.4, value), (0.4, value), (0.6, value + 1)):
            image = torch.full((1, 1, 1, 3), (value + part) / 65535, dtype=torch.float64).float()
            assert to_picture(image, like=like).samples.item() == expected, (value, part)


def test_jpeg_has_all_its_colours() -> None:
    """Not one colour for four pixels, as most writers save: red and blue columns stay apart."""
    samples = np.zeros((16, 16, 3), np.uint8)
    samples[:, ::2, 0] = samples[:, 1::2, 2] = 255
    file = io.BytesIO()
    encode_image(file, "JPEG", Picture(samples=samples))
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert [layer[1:3] for layer in cast("Any", image).layer] == [(1, 1)] * 3
        assert np.abs(np.asarray(image).astype(int) - samples).max() < 40


def test_every_value_of_8_bits_is_what_torch_makes_of_it() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    assert torch.equal(to_tensor(Picture(samples=values))[0, 0, :, 0], torch.arange(256).float() / 255)


@pytest.mark.parametrize("value", [-1, 65536])
def test_whole_numbers_beyond_16_bits_are_refused(value: int) -> None:
    image = Image.fromarray(np.array([[0, value], [65535, 1]], np.int32))
    assert image.mode == "I"
    with pytest.raises(ImageFileError, match=r"^The image has 32-bit or floating-point samples\."):
        from_pil(image)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(value: int) -> None:
    image = Image.fromarray(np.array([[0, 65535], [7, value]], np.int32))
    with pytest.raises(ImageFileError, match="32-bit or floating-point samples"):
        from_pil(image)
    kept = from_pil(Image.fromarray(np.array([[0, 65535]], np.int32)))
    assert kept.samples.ravel().tolist() == [0, 65535]


def test_texts_of_a_png_are_kept_but_for_those_that_are_metadata_of_other_kinds() -> None:
    """XMP, and what ImageMagick hides in texts: both have their own place."""
    info, file = PngInfo(), io.BytesIO()
    info.add_text("Title", "a")
    info.add_text("parameters", "Steps: 20")
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    info.add_text("Raw profile type iptc", "\niptc\n       0\n\n", zip=True)
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
    metadata = from_pil(Image.open(file)).metadata
    assert metadata.text == (("Title", "a"), ("parameters", "Steps: 20"))
    assert metadata.xmp == b"<x:xmpmeta/>"
