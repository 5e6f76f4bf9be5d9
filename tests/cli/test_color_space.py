"""Colour that a file states without a profile: carried, converted or refused, and the same picture at the end."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.pngs import chunk, chunks_of, png

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files.color_space import adobe_rgb, chunks_of_box
from dfosd_core.image_files.icc import SRGB_PRIMARIES, color_from_grey, curve, grey_from_color, make_profile
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture, Samples
from dfosd_core.image_files.pil import from_pil, to_pil
from dfosd_core.image_files.read import decode_image, read_image
from dfosd_core.image_files.write import check_target, encode_image, write_image

LINEAR = (b"gAMA", struct.pack(">I", 100000))
P3 = (b"cICP", bytes((12, 13, 0, 1)))
PQ = (b"cICP", bytes((9, 16, 0, 1)))
HLG = (b"cICP", bytes((9, 18, 0, 1)))
SRGB = (b"sRGB", b"\0")
P3_CHRM = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
SRGB_CHRM = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
HDR = ((b"mDCV", bytes(range(24))), (b"cLLI", bytes(range(8))))
OTHERS = (".jpg", ".webp", ".avif", ".tif")


def picture(color: tuple[tuple[bytes, bytes], ...], value: Any = 128, channels: int = 3, bits: int = 8) -> Picture:
    samples = np.empty((8, 8, channels), np.uint8 if bits == 8 else np.uint16)
    samples[:] = value
    return Picture(samples=cast("Samples", samples), metadata=ImageMetadata(color=color))


def shown(profile: bytes, value: Any, mode: str = "RGB") -> list[int]:
    """What sRGB makes of `value` by a program that manages colours."""
    sources = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image = ImageCms.profileToProfile(Image.new(mode, (1, 1), value), sources, srgb, outputMode="RGB")
    assert image is not None
    return list(cast("tuple[int, ...]", image.getpixel((0, 0))))


def srgb_level(light: float) -> float:
    """What of 255 sRGB has for that share of the light (IEC 61966-2-1)."""
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("color", [(LINEAR,), (LINEAR, P3_CHRM), (SRGB,), (PQ, *HDR), (P3,)])
def test_png_takes_over_what_a_png_states(tmp_path: Path, color: Any, channels: int, bits: int) -> None:
    write_image(tmp_path / "a.png", picture(color, channels=channels, bits=bits))
    found = read_image(tmp_path / "a.png")
    assert found.metadata.color == color
    assert found.is_16_bit == (bits == 16)
    write_image(tmp_path / "b.png", found)
    written = chunks_of((tmp_path / "b.png").read_bytes())
    assert {kind: written[kind] for kind, _ in color} == dict(color)


@pytest.mark.parametrize("suffix", OTHERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_linear_picture_stays_as_bright_in_every_format(tmp_path: Path, suffix: str, channels: int) -> None:
    write_image(tmp_path / f"a{suffix}", picture((LINEAR,), channels=channels))
    found = read_image(tmp_path / f"a{suffix}")
    profile = found.metadata.icc_profile
    assert profile is not None
    value = 128 if found.is_grey else (128, 128, 128)
    assert np.abs(np.array(shown(profile, value, "L" if found.is_grey else "RGB")) - 188).max() <= 1  # sRGB of 0.502


def test_format_without_profiles_gets_the_colours_themselves(tmp_path: Path) -> None:
    for channels in (1, 3):
        write_image(tmp_path / "a.bmp", picture((LINEAR,), channels=channels), overwrite=True)
        assert np.abs(read_image(tmp_path / "a.bmp").samples.astype(int) - 188).max() <= 1
    profile = adobe_rgb(is_grey=False)
    samples = np.full((2, 2, 3), (200, 100, 50), np.uint8)
    write_image(tmp_path / "b.bmp", Picture(samples=samples, metadata=ImageMetadata(icc_profile=profile)))
    assert read_image(tmp_path / "b.bmp").samples[0, 0].tolist() == shown(profile, (200, 100, 50))


@pytest.mark.parametrize("color", [(P3,), (LINEAR, P3), (P3_CHRM,), (P3_CHRM, (b"gAMA", struct.pack(">I", 45455)))])
@pytest.mark.parametrize("suffix", OTHERS)
def test_display_p3_stays_display_p3(tmp_path: Path, suffix: str, color: Any) -> None:
    given = picture(color, value=(200, 60, 60))
    check_target(tmp_path / f"a{suffix}", given, (8, 8))
    write_image(tmp_path / f"a{suffix}", given)
    profile = read_image(tmp_path / f"a{suffix}").metadata.icc_profile
    assert profile is not None
    assert np.abs(np.array(shown(profile, (200, 60, 60))) - (217, 42, 52)).max() <= 1  # by the matrix from P3 to sRGB


@pytest.mark.parametrize(
    "color", [(), (SRGB,), (SRGB, LINEAR), (SRGB_CHRM,), ((b"gAMA", struct.pack(">I", 45455)), SRGB_CHRM)]
)
@pytest.mark.parametrize("suffix", OTHERS)
def test_srgb_needs_no_profile(tmp_path: Path, suffix: str, color: Any) -> None:
    write_image(tmp_path / f"a{suffix}", picture(color))
    assert read_image(tmp_path / f"a{suffix}").metadata.icc_profile is None


@pytest.mark.parametrize("suffix", [*OTHERS, ".bmp"])
@pytest.mark.parametrize(
    ("color", "what"),
    [(PQ, "PQ colours"), (HLG, "HLG colours"), ((b"cICP", bytes((1, 13, 0, 0))), "colours (cICP 1-13-0-0)")],
)
def test_what_only_a_png_can_state_is_refused_elsewhere(tmp_path: Path, suffix: str, color: Any, what: str) -> None:
    given = picture((color,))
    with pytest.raises(ImageFileError) as caught:
        check_target(tmp_path / f"a{suffix}", given, (8, 8))
    name = {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
    assert str(caught.value) == (
        f"'{tmp_path / f'a{suffix}'}': {name} cannot say that the input has {what}. Write .png instead."
    )
    check_target(tmp_path / "a.png", given, (8, 8))


def test_damaged_statements_are_no_statements() -> None:
    image = Image.new("RGB", (4, 4))
    for kind, content in ((b"gAMA", b"\0\0"), (b"cICP", b"\1\1"), (b"cHRM", b"\0" * 31)):
        assert decode_image(png(image, chunk(kind, content)), "a").metadata.color == ()
    on_a_line = struct.pack(">8I", 31270, 32900, 20000, 20000, 40000, 30000, 60000, 40000)
    for color in ((b"gAMA", b"\0\0\0\0"), (b"cHRM", b"\0" * 32), (b"cHRM", b"\xff" * 32), (b"cHRM", on_a_line)):
        assert to_pil(picture((color,))).info == {}


@pytest.mark.parametrize("box", [b"", b"colrnclx", b"colrnclx" + bytes((0, 12, 0))])
def test_box_that_ends_too_early_is_no_statement(box: bytes) -> None:
    assert chunks_of_box(box) == {}
    assert chunks_of_box(b"colrnclx" + bytes((0, 12, 0, 13, 0, 0, 128))) == dict([P3])


def test_hosts_get_a_profile_for_what_pillow_reads() -> None:
    for mode in ("L", "RGB", "RGBA"):
        image = Image.open(io.BytesIO(png(Image.new(mode, (4, 4)), chunk(*LINEAR))))
        assert (
            shown(to_pil(from_pil(image)).info["icc_profile"], 128 if mode == "L" else (128,) * 3, mode[:3])[0] == 188
        )


def adobe_exif(space: int, mark: str | None) -> bytes:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: space, **({0xA005: {1: mark, 2: b"0100"}} if mark else {})}
    return exif.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.png", "a.tif"])
def test_cameras_mark_of_adobe_rgb_becomes_a_profile(tmp_path: Path, name: str, mode: str) -> None:
    samples = np.zeros((4, 4, 1 if mode == "L" else 3), np.uint8)
    for space, mark, is_adobe in (
        (65535, "R03", True),
        (65535, "R98", False),
        (65535, None, False),
        (1, "R98", False),
        (1, "R03", False),  # sRGB is stated, and the mark alone says nothing
        (2, None, True),  # of no standard, and meant so
        (2, "R98", True),
    ):
        marked = Picture(samples=samples, metadata=ImageMetadata(exif=adobe_exif(space, mark)))
        write_image(tmp_path / name, marked, overwrite=True)
        found = read_image(tmp_path / name)
        assert found.metadata.icc_profile == (adobe_rgb(is_grey=found.is_grey) if is_adobe else None)
        write_image(tmp_path / "b.jpg", found, overwrite=True)
        if mark:
            assert Image.open(tmp_path / "b.jpg").getexif().get_ifd(0xA005)[1] == mark


def test_profile_of_adobe_rgb_has_its_published_numbers() -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(adobe_rgb(is_grey=False))).profile
    expected = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
    found = [getattr(profile, f"{color}_colorant")[0] for color in ("red", "green", "blue")]
    assert np.abs(np.array(found) - expected).max() < 2e-4
    for level in (32, 64, 128, 224):
        light = (level / 255) ** 2.19921875
        assert abs(shown(adobe_rgb(is_grey=True), level, "L")[0] - srgb_level(light)) < 1
        assert abs(shown(adobe_rgb(is_grey=False), (level,) * 3)[0] - srgb_level(light)) < 1


@pytest.mark.parametrize("name", ["a.webp", "a.avif"])
def test_grey_profile_is_not_lost_where_there_is_no_grey(tmp_path: Path, name: str) -> None:
    grey = make_profile("gamma 1.8", curve(1.8), None)
    write_image(
        tmp_path / name, Picture(samples=np.full((8, 8, 1), 99, np.uint8), metadata=ImageMetadata(icc_profile=grey))
    )
    profile = read_image(tmp_path / name).metadata.icc_profile
    assert profile is not None
    assert shown(profile, (99, 99, 99)) == shown(grey, 99, "L")


def test_grey_with_a_profile_for_colours_keeps_its_curve(tmp_path: Path) -> None:
    profile = make_profile("gamma 1.0", curve(1.0), SRGB_PRIMARIES)
    Image.new("L", (8, 8), 128).save(tmp_path / "a.jpg", icc_profile=profile)
    found = read_image(tmp_path / "a.jpg").metadata.icc_profile
    assert found is not None
    assert found[16:20] == b"GRAY"
    assert shown(found, 128, "L")[0] == 188
    assert grey_from_color(color_from_grey(found) or b"") == found


@pytest.mark.parametrize("transfer", [1, 2, 6, 13])
@pytest.mark.parametrize("primaries", [1, 2])
def test_what_screens_assume_anyway_needs_no_profile(primaries: int, transfer: int) -> None:
    assert to_pil(picture(((b"cICP", bytes((primaries, transfer, 0, 1))),))).info == {}


D65, C, DCI = (0.3127, 0.329), (0.31, 0.316), (0.314, 0.351)
H273 = {  # table 2: white, red, green, blue
    4: (C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: (C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: (DCI, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}


def profile_of(primaries: int, transfer: int) -> bytes:
    return to_pil(picture(((b"cICP", bytes((primaries, transfer, 0, 1))),))).info["icc_profile"]


@pytest.mark.parametrize("primaries", H273)
def test_stated_primaries_are_those_of_the_standard(primaries: int) -> None:
    """Their columns of XYZ, moved to the profile's white (D50) as Bradford has it."""
    white, *colors = (np.array((x / y, 1, (1 - x - y) / y)) for x, y in H273[primaries])
    columns = np.stack(colors, 1)
    columns = columns * np.linalg.solve(columns, white)
    cones = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))
    moved = np.diag(cones @ np.array((0.9642, 1, 0.8249)) / (cones @ white))
    expected = np.linalg.solve(cones, moved @ cones @ columns)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_of(primaries, 8))).profile
    found = [getattr(profile, f"{color}_colorant")[0] for color in ("red", "green", "blue")]
    assert np.abs(np.array(found).T - expected).max() < 5e-4


@pytest.mark.parametrize("transfer", [1, 4, 5, 6, 8, 14, 15])
def test_stated_curves_are_those_of_the_standard(transfer: int) -> None:
    for level in (8, 32, 64, 128, 224):
        signal = level / 255
        gamma = {4: 2.2, 5: 2.8, 8: 1.0}.get(transfer)
        video = signal / 4.5 if signal < 0.081 else ((signal + 0.099) / 1.099) ** (1 / 0.45)
        light = signal**gamma if gamma else video
        primaries = 5 if transfer in (1, 6) else 1  # with those of sRGB, BT.709's curve means sRGB
        assert abs(shown(profile_of(primaries, transfer), (level,) * 3)[0] - srgb_level(light)) < 1.5


def test_profiles_of_tables_cannot_change_sides() -> None:
    for damaged in (b"", b"\xff" * 200, make_profile("a", curve(1.0), None)[:140]):
        assert color_from_grey(damaged) is None
        assert grey_from_color(damaged) is None


def test_code_points_of_an_avif_are_read() -> None:
    file = io.BytesIO()
    encode_image(file, "AVIF", Picture(samples=np.zeros((8, 8, 3), np.uint8)))
    data = file.getvalue()
    start = data.index(b"colrnclx") + 8
    assert decode_image(data, "a").metadata.color == ()
    wide = data[:start] + struct.pack(">HH", 12, 13) + data[start + 4 :]
    assert decode_image(wide, "a").metadata.color == (P3,)
    assert to_pil(decode_image(wide, "a")).info["icc_profile"]


def test_profiles_head_says_what_it_is() -> None:
    """ICC.1:2022, table 17: size, version 4.3, class, space, date, signature, white point; the rest is zero."""
    for space, primaries in ((b"RGB ", SRGB_PRIMARIES), (b"GRAY", None)):
        profile = make_profile("x", curve(2.2), primaries)
        assert struct.unpack(">I", profile[:4]) == (len(profile),)
        assert profile[8:12] == b"\x04\x30\0\0"
        assert profile[12:24] == b"mntr" + space + b"XYZ "
        assert struct.unpack(">6H", profile[24:36]) == (2000, 1, 1, 0, 0, 0)
        assert profile[36:40] == b"acsp"
        assert profile[68:80] == b"\x00\x00\xf6\xd6\x00\x01\x00\x00\x00\x00\xd3\x2d"
        assert not any(profile[4:8] + profile[40:68] + profile[80:128])
