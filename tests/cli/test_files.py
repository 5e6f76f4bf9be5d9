from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files import pil
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture, turn_upright
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.write import check_target, write_image

RNG = np.random.default_rng(1)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLORS = RNG.integers(0, 256, (6, 5, 3), np.uint8)
SAMPLES_16 = RNG.integers(0, 65536, (6, 5, 3), np.uint16)


def complaint(path: Path) -> str:
    with pytest.raises(ImageFileError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("RGB", 3), ("RGBA", 4)],
)
def test_png_modes_become_grey_or_rgb_with_their_alpha(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.fromarray(COLORS).convert(mode)
    image.save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    expected = np.asarray(image.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]))
    assert np.array_equal(picture.samples, expected.reshape(6, 5, channels))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_png_transparent_color_becomes_alpha(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (3, 2), "white").convert(mode)
    image.putpixel((1, 1), (0, 0, 0) if mode == "RGB" else 0)
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    alpha = read_image(tmp_path / "a.png").samples[..., -1]
    assert alpha[1, 1] == 0
    assert alpha.sum() == 255 * 5


def test_palette_of_greys_is_grey(tmp_path: Path) -> None:
    image = Image.fromarray(COLORS[..., 0]).convert("P")
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").samples[..., 0], COLORS[..., 0])


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp"])
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLORS).save(path)
    assert np.array_equal(read_image(path).samples, np.asarray(Image.open(path).convert("RGB")))


def test_cmyk_without_profile_is_converted_plainly(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg").samples[0, 0].astype(int) - [255, 0, 0]).max() <= 3


def test_cmyk_profile_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def convert(image: Image.Image, source: Any, target: Any, **options: Any) -> Image.Image:
        seen.append(options["outputMode"])
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(pil.ImageCms, "profileToProfile", convert)
    profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.tif", icc_profile=profile)
    picture = read_image(tmp_path / "a.tif")
    assert seen == ["RGB"]
    assert picture.samples[0, 0].tolist() == [1, 2, 3]
    assert picture.metadata.icc_profile is None


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").samples.min() >= 250


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_orientation_is_honoured_and_not_kept(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    exif[271] = "Camera"
    Image.fromarray(COLORS).save(tmp_path / name, exif=exif)
    picture = read_image(tmp_path / name)
    # Pillow turns a TIFF itself, when it loads it
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / name)).convert("RGB"))
    assert np.array_equal(picture.samples, expected)
    write_image(tmp_path / "out.png", picture)
    exif = Image.open(tmp_path / "out.png").getexif()
    assert 274 not in exif
    assert exif[271] == "Camera"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiff16_orientation(tmp_path: Path, orientation: int, order: Literal["<", ">"], big: bool) -> None:
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", SAMPLES_16, photometric="rgb", extratags=tags, byteorder=order, bigtiff=big)
    assert np.array_equal(read_image(tmp_path / "a.tif").samples, turn_upright(SAMPLES_16, orientation))


def test_orientation_in_xmp_is_honoured_and_removed(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", xmp=xmp)
    picture = read_image(tmp_path / "a.jpg")
    assert picture.size == (5, 6)
    assert picture.metadata.xmp == xmp.replace(b' tiff:Orientation="6"', b"")


def png16(path: Path, samples: NDArray[np.uint16], color_type: int, extra: bytes = b"") -> None:
    """A 16-bit PNG from first principles; `extra` goes before the samples."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", extra) if extra else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png16_keeps_all_bits(tmp_path: Path, color_type: int, channels: int) -> None:
    samples = RNG.integers(0, 65536, (6, 5, channels), np.uint16)
    png16(tmp_path / "a.png", samples, color_type)
    assert np.array_equal(read_image(tmp_path / "a.png").samples, samples)


def test_png16_is_read_by_opencv_4_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [3]
    monkeypatch.delattr(cv2.utils, "logging", raising=False)
    monkeypatch.setattr(cv2, "getLogLevel", lambda: levels[-1], raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    samples = np.arange(36, dtype=np.uint16).reshape(3, 4, 3) * 1800
    write_image(tmp_path / "a.png", Picture(samples=samples))
    assert np.array_equal(read_image(tmp_path / "a.png").samples, samples)
    assert levels == [3, 0, 3]


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3)])
def test_png16_transparent_color_becomes_alpha(tmp_path: Path, color_type: int, channels: int) -> None:
    samples = RNG.integers(0, 65536, (6, 5, channels), np.uint16)
    png16(tmp_path / "a.png", samples, color_type, extra=samples[2, 3].astype(">u2").tobytes())
    picture = read_image(tmp_path / "a.png")
    assert np.array_equal(picture.samples[..., :-1], samples)
    assert np.argwhere(picture.samples[..., -1] == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff16_keeps_all_bits(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", SAMPLES_16, photometric="rgb", compression=compression)
    tifffile.imwrite(tmp_path / "grey.tif", SAMPLES_16[..., 0], photometric="minisblack", compression=compression)
    tifffile.imwrite(tmp_path / "white.tif", SAMPLES_16[..., 0], photometric="miniswhite", compression=compression)
    assert np.array_equal(read_image(tmp_path / "rgb.tif").samples, SAMPLES_16)
    assert np.array_equal(read_image(tmp_path / "grey.tif").samples, SAMPLES_16[..., :1])
    assert np.array_equal(read_image(tmp_path / "white.tif").samples, 65535 - SAMPLES_16[..., :1])


def test_tiff16_fourth_channel_is_what_the_file_says(tmp_path: Path) -> None:
    light = np.full((2, 2, 3), 10000, np.uint16)
    samples = np.concatenate([light, np.full((2, 2, 1), 32768, np.uint16)], axis=2)
    for kind in ("unassalpha", "assocalpha", "unspecified"):
        tifffile.imwrite(tmp_path / f"{kind}.tif", samples, photometric="rgb", extrasamples=[kind])
    assert np.array_equal(read_image(tmp_path / "unassalpha.tif").samples, samples)
    assert np.array_equal(read_image(tmp_path / "unspecified.tif").samples, light)
    assert read_image(tmp_path / "assocalpha.tif").samples[0, 0].tolist() == [20000, 20000, 20000, 32768]


def test_phone_jpeg_with_a_second_picture_is_one_photograph(tmp_path: Path) -> None:
    first, second = Image.fromarray(COLORS), Image.new("RGB", (5, 6))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    assert read_image(tmp_path / "a.jpg").size == (6, 5)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_animation_is_refused_by_name(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    what = "holds 3 pages" if name == "a.tif" else "is animated (3 frames)"
    expected = f"'{tmp_path / name}' {what}; only single images can be upscaled here. Save one as a PNG."
    assert complaint(tmp_path / name) == expected


def test_missing_empty_and_unknown_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert complaint(path) == f"There is no file '{path}'."
    path.write_bytes(b"")
    assert complaint(path) == f"'{path}' is empty (0 bytes)."
    path.write_text("hello")
    assert complaint(path) == f"'{path}' is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image."


def test_unreadable_file_is_named(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert complaint(photo) == f"'{photo}' cannot be read: Permission denied."


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "16.png", "16.tif"])
def test_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    samples = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    write_image(path, Picture(samples=samples.astype(np.uint16) * 257 if name.startswith("16") else samples))
    data = path.read_bytes()
    for length in (len(data) * 2 // 3, 30):
        path.write_bytes(data[:length])
        assert complaint(path).startswith(f"'{path}' is damaged")


def test_giant_images_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (12000, 10000)).save(path)
    assert complaint(path) == (
        f"'{path}' has 120 megapixels (12000x10000); at most 100 megapixels can be read. Cut it into pieces."
    )
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))
    assert complaint(path) == f"'{path}' is larger than 100 megapixels. Cut it into pieces."


def metadata() -> ImageMetadata:
    exif = Image.Exif()
    exif[271], exif[33432] = "Camera", "(c) someone"
    exif[0x8769] = {0x829A: (1, 250), 0x9286: b"ASCII\0\0\0hello", 0x9003: "2020:01:01 00:00:00"}
    exif[0x8825] = {1: "N", 2: (51.0, 2.0, 3.0)}
    text = (("Title", "b"), ("über", "日本"))
    return ImageMetadata(
        icc_profile=SRGB,
        exif=exif.tobytes(),
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        dpi=(300, 200),
        text=text,
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("samples", [COLORS, SAMPLES_16])
def test_metadata_is_kept(tmp_path: Path, name: str, samples: Any) -> None:
    write_image(tmp_path / name, Picture(samples=samples, metadata=metadata()))
    found, exif = read_image(tmp_path / name).metadata, Image.open(tmp_path / name).getexif()
    assert found.icc_profile == SRGB
    assert found.xmp == metadata().xmp
    assert (exif[271], exif[33432]) == ("Camera", "(c) someone")
    assert exif.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0hello"
    assert exif.get_ifd(0x8825)[2] == (51.0, 2.0, 3.0)
    if name != "a.webp":  # which has no place for a resolution
        assert found.dpi == pytest.approx((300, 200), rel=1e-4)
    if name == "a.png":
        assert found.text == metadata().text


def test_jpeg_comment_is_kept(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", comment=b"by me")
    write_image(tmp_path / "b.jpg", read_image(tmp_path / "a.jpg"))
    assert Image.open(tmp_path / "b.jpg").info["comment"] == b"by me"


def test_stale_facts_are_not_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0xA002: 5, 0xA003: 6, 0x9003: "2020:01:01 00:00:00"}
    info = PngInfo()
    info.add_text("Raw profile type exif", "orientation and all")
    Image.fromarray(COLORS).save(tmp_path / "a.png", exif=exif, pnginfo=info)
    write_image(tmp_path / "b.png", read_image(tmp_path / "a.png"))
    image = Image.open(tmp_path / "b.png")
    assert dict(image.getexif().get_ifd(0x8769)) == {0xA002: 5, 0xA003: 6, 0x9003: "2020:01:01 00:00:00"}
    assert "Raw profile type exif" not in image.info


def test_profile_of_another_kind_of_samples_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for profile in (b"no profile", SRGB[:16] + b"CLR6" + SRGB[20:]):
        Image.fromarray(COLORS).save(tmp_path / "a.png", icc_profile=profile)
        assert read_image(tmp_path / "a.png").metadata.icc_profile is None
    assert [record.message for record in caplog.records] == [
        f"'{tmp_path / 'a.png'}': left out: the colour profile (damaged).",
        f"'{tmp_path / 'a.png'}': left out: the colour profile (it is for other samples).",
    ]


def test_damaged_exif_does_not_stop_the_picture(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x0f\x01\x02\0" * 5)
    assert read_image(tmp_path / "a.jpg").size == (6, 5)


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_transparency_is_refused_where_it_would_be_lost(tmp_path: Path, name: str) -> None:
    samples = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(ImageFileError) as caught:
        check_target(tmp_path / name, Picture(samples=samples), (16, 16))
    kind = {"a.jpg": "JPEG", "a.bmp": "BMP"}[name]
    assert str(caught.value) == (
        f"'{tmp_path / name}': {kind} cannot hold the input's transparency. Write .png, .webp or .tiff instead."
    )


def test_opaque_alpha_is_left_out_of_a_jpeg(tmp_path: Path) -> None:
    picture = Picture(samples=np.full((4, 4, 4), 255, np.uint8))
    check_target(tmp_path / "a.jpg", picture, (16, 16))
    write_image(tmp_path / "a.jpg", picture)
    assert Image.open(tmp_path / "a.jpg").mode == "RGB"


@pytest.mark.parametrize(("name", "edge"), [("a.jpg", 65501), ("a.webp", 16384)])
def test_too_large_for_the_format_is_refused(tmp_path: Path, name: str, edge: int) -> None:
    picture = Picture(samples=COLORS)
    check_target(tmp_path / name, picture, (1, edge - 1))
    with pytest.raises(ImageFileError, match=rf"holds at most {edge - 1} pixels a side, the result has {edge}x1\."):
        check_target(tmp_path / name, picture, (1, edge))


def test_too_large_tiff_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"the result is too large for TIFF \(4 GB\)\. Write \.png instead\."):
        check_target(tmp_path / "a.tif", Picture(samples=SAMPLES_16), (40000, 40000))


def test_avif_holds_as_many_pixels_as_libavif_decodes(tmp_path: Path) -> None:
    """AVIF_DEFAULT_IMAGE_SIZE_LIMIT of avif/avif.h: 16384 x 16384."""
    if not pil.has_avif():
        pytest.skip("this Pillow writes no AVIF")
    picture = Picture(samples=COLORS)
    for size in ((16384, 16384), (8192, 32768)):
        check_target(tmp_path / "a.avif", picture, size)
    for size in ((16384, 16385), (8193, 32768)):
        with pytest.raises(ImageFileError, match=r"is too large for AVIF \(268 megapixels\)\. Write \.png instead\."):
            check_target(tmp_path / "a.avif", picture, size)


def test_pillow_without_avif_says_so_and_reads_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.avif", "a.jpg"):
        Image.fromarray(COLORS).save(tmp_path / name)
    monkeypatch.setattr(pil.features, "check", lambda _: None)
    monkeypatch.delitem(Image.OPEN, "AVIF")
    assert read_image(tmp_path / "a.jpg").size == (6, 5)
    assert complaint(tmp_path / "a.avif") == (
        f"'{tmp_path / 'a.avif'}' is an AVIF file, which this Pillow does not read. Install Pillow 11.3 or newer."
    )
    with pytest.raises(ImageFileError, match="this Pillow does not write AVIF. Install Pillow 11.3 or newer"):
        check_target(tmp_path / "b.avif", Picture(samples=COLORS), (6, 5))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, head: bytes, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(head + b"\0" * 40)
    assert complaint(tmp_path / "a.png") == (
        f"'{tmp_path / 'a.png'}' is a {kind} file, which is not read. Save it as PNG or JPEG."
    )
