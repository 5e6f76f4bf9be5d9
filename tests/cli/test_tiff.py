"""TIFF: any number of channels, planes and pages that are no pictures, and land that stays where it is."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files import tiff_pages
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture, turn_upright
from dfosd_core.image_files.read import decode_image, decode_size, read_image, read_size
from dfosd_core.image_files.tiff_pages import pages_of
from dfosd_core.image_files.tiff_samples import is_plain, read_samples
from dfosd_core.image_files.write import write_image

RNG = np.random.default_rng(6)
HEIGHT, WIDTH = 37, 45
COLORS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def samples_of(bits: int, channels: int) -> Any:
    kind = np.uint8 if bits == 8 else np.uint16
    return RNG.integers(0, np.iinfo(kind).max + 1, (HEIGHT, WIDTH, channels), kind)


def tiff(samples: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, software=False, **options)
    return file.getvalue()


def complaint(data: bytes) -> str:
    with pytest.raises(ImageFileError) as caught:
        decode_image(data, "a")
    return str(caught.value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("channels", "photometric", "extra"),
    [
        (1, "minisblack", []),
        (2, "minisblack", [2]),
        (3, "rgb", []),
        (4, "rgb", [2]),
        (5, "rgb", [2, 0]),
        (6, "rgb", [0] * 3),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_channels_are_read_in_every_order_and_compression(
    bits: int, channels: int, photometric: str, extra: list[int], compression: str | None, order: Literal["<", ">"]
) -> None:
    samples = samples_of(bits, channels)
    lights = 3 if photometric == "rgb" else 1
    kept = samples[..., : lights + (2 in extra)]
    layouts: list[dict[str, Any]] = [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}]
    if compression:
        layouts += [{**layout, "predictor": True} for layout in layouts]
    for layout in layouts:
        options = {"photometric": photometric, "extrasamples": extra, "compression": compression, "byteorder": order}
        given = samples[..., 0] if channels == 1 else samples
        interleaved = decode_image(
            tiff(given, planarconfig="contig" if channels > 1 else None, **options, **layout), "a"
        )
        assert np.array_equal(interleaved.samples, kept), layout
        if channels > 1:
            planes = samples.transpose(2, 0, 1)
            apart = decode_image(tiff(planes, planarconfig="separate", **options, **layout), "a")
            assert np.array_equal(apart.samples, kept), layout
            more = channels - kept.shape[2]
            assert apart.metadata.lost == ((f"{more} more channel{'s' if more > 1 else ''}",) if more else ())


@pytest.mark.parametrize("big", [False, True])
def test_bands_without_colours_are_grey_and_the_rest_is_named(big: bool) -> None:
    samples = samples_of(16, 5)
    picture = decode_image(tiff(samples, photometric="minisblack", planarconfig="contig", bigtiff=big), "a")
    assert np.array_equal(picture.samples, samples[..., :1])
    assert picture.metadata.lost == ("4 more channels",)


@pytest.mark.parametrize("bits", [8, 16])
def test_premultiplied_alpha_is_taken_out(bits: int) -> None:
    top = 2**bits - 1
    samples = np.full((4, 4, 4), top // 4, np.uint8 if bits == 8 else np.uint16)
    samples[..., 3] = top // 2
    for picture in (
        decode_image(tiff(samples, photometric="rgb", extrasamples=[1]), "a"),
        decode_image(tiff(samples[..., 2:], photometric="minisblack", planarconfig="contig", extrasamples=[1]), "a"),
    ):
        assert np.abs(picture.samples[0, 0].astype(int) - top // 2).max() <= 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (np.float16, "floating-point samples of 16 bits"),
        (np.float32, "floating-point samples of 32 bits"),
        (np.float64, "floating-point samples of 64 bits"),
        (np.int8, "signed samples of 8 bits"),
        (np.int16, "signed samples of 16 bits"),
        (np.uint32, "32 bits a sample"),
        (np.uint64, "64 bits a sample"),
        (np.complex64, "complex samples of 64 bits"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_are_named(kind: Any, channels: int, words: str) -> None:
    samples = np.zeros((4, 4, channels), kind)
    data = tiff(samples[..., 0] if channels == 1 else samples, photometric="minisblack" if channels == 1 else "rgb")
    assert complaint(data) == f"'a' has {words}. Save it as grey or RGB with 8 or 16 bits a sample."


def test_kinds_that_nobody_reads_are_named() -> None:
    data = tiff(np.zeros((4, 4, 4), np.uint16), photometric="rgb", extrasamples=[0])
    data = data.replace(struct.pack("<HHIHH", 262, 3, 1, 2, 0), struct.pack("<HHIHH", 262, 3, 1, 32803, 0))
    words = "4 channels of 16 bits, photometric interpretation 32803, compression 1"
    assert complaint(data).startswith(f"'a' is a TIFF of a kind that is not read ({words}).")
    data = tiff(np.zeros((9000, 9000), np.uint8), compression="zlib")
    place = data.index(struct.pack("<HHIHH", 277, 3, 1, 1, 0)) + 8
    many = data[:place] + struct.pack("<H", 60000) + data[place + 2 :]
    assert complaint(many) == "'a' holds 60000 channels of 9000x9000: too much. Cut it into pieces."


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressions_of_other_writers_are_read(tmp_path: Path, compression: str) -> None:
    for image in (
        Image.fromarray(COLORS),
        Image.fromarray(COLORS).convert("L"),
        Image.fromarray(samples_of(16, 1)[..., 0]),
    ):
        image.save(tmp_path / "a.tif", compression=compression)
        found = read_image(tmp_path / "a.tif").samples
        assert np.array_equal(found.reshape(np.asarray(image).shape), np.asarray(image))
    samples = samples_of(16, 3)
    encoded = cv2.imencode(".tif", samples[..., ::-1])[1].tobytes()  # LZW over differences
    assert np.array_equal(decode_image(encoded, "a").samples, samples)


@pytest.mark.parametrize(
    ("compression", "number"),
    [(None, 1), ("tiff_lzw", 5), ("tiff_adobe_deflate", 8), ("packbits", 32773), ("lzma", 34925), ("zstd", 50000)],
)
def test_every_compression_of_bytes_is_read_without_pillows_modes(compression: str | None, number: int) -> None:
    """The numbers of TIFF 6.0 and of libtiff's tiff.h. Pillow's modes have no colour of 16 bits."""
    file = io.BytesIO()
    try:
        Image.fromarray(COLORS).save(file, "TIFF", compression=compression)
    except (OSError, RuntimeError):
        pytest.skip("this Pillow's libtiff has no such compression")
    (page,) = pages_of(file.getvalue())
    assert page.one(259, 0) == number
    assert is_plain(page)
    assert np.array_equal(read_samples(file.getvalue(), page)[0], COLORS)


def test_tags_have_their_registered_numbers() -> None:
    """As tifffile lists them, of TIFF 6.0, its supplements and DNG."""
    names = {
        "ImageWidth": tiff_pages.WIDTH,
        "ImageLength": tiff_pages.LENGTH,
        "BitsPerSample": tiff_pages.BITS,
        "SamplesPerPixel": tiff_pages.CHANNELS,
        "PlanarConfiguration": tiff_pages.PLANES,
        "Predictor": tiff_pages.PREDICTOR,
        "TileWidth": tiff_pages.TILE_WIDTH,
        "TileLength": tiff_pages.TILE_LENGTH,
        "TileOffsets": tiff_pages.TILES,
        "TileByteCounts": tiff_pages.TILE_BYTES,
        "ExtraSamples": tiff_pages.EXTRA,
        "SampleFormat": tiff_pages.FORMAT,
        "DNGVersion": tiff_pages.DNG,
    }
    assert {name: tifffile.TIFF.TAGS[name] for name in names} == names


@pytest.mark.parametrize("width", [1, 45])
def test_tiles_whose_width_is_not_stated_are_refused(width: int) -> None:
    data = tiff(COLORS[:, :width, 0].copy(), photometric="minisblack", tile=(16, 16))
    stated, not_stated = (struct.pack("<HHI", tag, 4, 1) for tag in (322, 321))
    assert decode_image(data, "a").size == (HEIGHT, width)
    assert complaint(data.replace(stated, not_stated)).startswith("'a' is damaged")


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "LAB", "jpeg"])
def test_what_pillow_knows_is_read_by_it(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLORS)
    if mode == "jpeg":
        image.save(tmp_path / "a.tif", compression="jpeg")
    else:
        (image.quantize(16) if mode == "P" else image.convert("L" if mode == "LAB" else mode)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["raw", "jpeg"])
def test_size_is_that_of_the_upright_picture(tmp_path: Path, orientation: int, compression: str) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.tif", compression=compression, tiffinfo={274: orientation})
    picture = read_image(tmp_path / "a.tif")
    assert read_size(tmp_path / "a.tif") == picture.size
    assert picture.size == turn_upright(COLORS, orientation).shape[:2]
    if compression == "raw":
        assert np.array_equal(picture.samples, turn_upright(COLORS, orientation))


def pages(path: Path, *kinds: dict[str, Any]) -> Path:
    """A TIFF whose first page is `COLORS`, unless the first kind says otherwise."""
    with tifffile.TiffWriter(path) as file:
        for kind in ({}, *kinds):
            samples = kind.get("samples", COLORS)
            options = {key: value for key, value in kind.items() if key != "samples"}
            file.write(samples, **{"photometric": "rgb", "metadata": None, **options})
    return path


SMALL = {"samples": COLORS[::4, ::4].copy()}
MASK = {"samples": np.ones((HEIGHT, WIDTH), np.uint8), "photometric": "minisblack"}


@pytest.mark.parametrize(
    "beside",
    [
        [{**SMALL, "subfiletype": 1}],
        [{**SMALL, "subfiletype": 1}, {"samples": COLORS[::8, ::8].copy(), "subfiletype": 1}],
        [{**MASK, "extratags": [(254, "I", 1, 4, True)]}],
        [{**MASK, "extratags": [(254, "I", 1, 5, True)]}, {**SMALL, "subfiletype": 1}],
        [{**SMALL, "extratags": [(255, "H", 1, 2, True)]}],
        [{**SMALL, "extratags": [(513, "I", 1, 8, True)]}],
    ],
)
def test_thumbnails_pyramids_and_masks_are_no_pages(tmp_path: Path, beside: list[dict[str, Any]]) -> None:
    path = pages(tmp_path / "a.tif", *beside)
    assert np.array_equal(read_image(path).samples, COLORS)
    assert read_size(path) == (HEIGHT, WIDTH)


def test_mask_is_told_by_its_samples_too(tmp_path: Path) -> None:
    data = pages(tmp_path / "a.tif", MASK).read_bytes()
    grey, mask = (struct.pack("<HHIHH", 262, 3, 1, kind, 0) for kind in (1, 4))
    assert decode_image(data.replace(grey, mask), "a").size == (HEIGHT, WIDTH)


def test_picture_behind_its_thumbnail_is_found(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(SMALL["samples"], subfiletype=1, metadata=None)
        file.write(COLORS, compression="zlib", metadata=None)
    assert read_image(tmp_path / "a.tif").size == (HEIGHT, WIDTH)


def test_previews_of_raw_files_are_no_pictures(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(SMALL["samples"], subfiletype=1, metadata=None)
    dng = pages(tmp_path / "a.dng", {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]})
    for path in (tmp_path / "a.tif", dng):
        assert "holds previews alone, as cameras' raw files do." in complaint(path.read_bytes())


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bits", [8, 16])
def test_size_that_is_stated_twice_cannot_grow(bits: int, compression: str | None) -> None:
    samples = np.zeros((100, 120, 3), np.uint8 if bits == 8 else np.uint16)
    again = [(257, "I", 1, 12000, False), (256, "I", 1, 12000, False)]
    data = tiff(samples, photometric="rgb", compression=compression, extratags=again)
    try:
        size = decode_image(data, "a").size
    except ImageFileError:
        return
    assert size == decode_size(data, "a") == (100, 120)


def geo_tags(raster_type: int) -> list[tuple[int, str, int, Any, bool]]:
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, raster_type, 3072, 0, 1, 32633)
    return [
        (33550, "d", 3, (10.0, 20.0, 0.0), True),
        (33922, "d", 6, (5.0, 6.0, 0.0, 500000.0, 4649776.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
        (34737, "s", 0, "WGS 84|", True),
    ]


@pytest.mark.parametrize(("raster_type", "shift"), [(1, 0.0), (2, 0.5)])
def test_land_stays_where_it_is(tmp_path: Path, raster_type: int, shift: float) -> None:
    """A point of the ground has four times the column and row, and each pixel a quarter of the ground."""
    (tmp_path / "a.tif").write_bytes(tiff(COLORS, photometric="rgb", extratags=geo_tags(raster_type)))
    found = read_image(tmp_path / "a.tif")
    write_image(tmp_path / "b.tif", Picture(samples=found.samples.repeat(4, 0).repeat(4, 1), metadata=found.metadata))
    tags = Image.open(tmp_path / "b.tif").tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    assert tags[33550] == (2.5, 5.0, 0.0)
    column, row = ((place + shift) * 4 - shift for place in (5.0, 6.0))
    assert tags[33922] == (column, row, 0.0, 500000.0, 4649776.0, 0.0)
    assert tags[34735][-4:] == (3072, 0, 1, 32633)
    assert tags[34737] == "WGS 84|"


def test_matrix_of_the_land_is_scaled_as_scale_and_tie_point_are(tmp_path: Path) -> None:
    matrix = (10.0, 1.0, 0.0, 500000.0, 2.0, -20.0, 0.0, 4649776.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    for raster_type, shift in ((1, 0.0), (2, 0.5)):
        tags: list[Any] = [(34264, "d", 16, matrix, True), geo_tags(raster_type)[2]]
        (tmp_path / "a.tif").write_bytes(tiff(COLORS, photometric="rgb", extratags=tags))
        found = read_image(tmp_path / "a.tif")
        larger = Picture(samples=found.samples.repeat(4, 0).repeat(4, 1), metadata=found.metadata)
        write_image(tmp_path / "b.tif", larger, overwrite=True)
        scaled = np.reshape(Image.open(tmp_path / "b.tif").tag_v2[34264], (4, 4))  # pyright: ignore[reportAttributeAccessIssue]
        place = np.array([7.0, 9.0, 0.0, 1.0])
        larger_place = np.array([(7 + shift) * 4 - shift, (9 + shift) * 4 - shift, 0.0, 1.0])
        assert scaled @ larger_place == pytest.approx(np.reshape(matrix, (4, 4)) @ place)


def test_land_that_a_format_cannot_hold_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(COLORS, photometric="rgb", extratags=geo_tags(1)))
    for name in ("b.png", "b.jpg", "b.webp", "b.avif", "b.bmp"):
        write_image(tmp_path / name, read_image(tmp_path / "a.tif"))
        assert caplog.records[-1].message.endswith("has no place for: the place on earth.")


def test_picture_without_resolution_keeps_none(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.tif")
    write_image(tmp_path / "b.tif", read_image(tmp_path / "a.tif"))
    assert not {282, 283, 296} & set(Image.open(tmp_path / "b.tif").tag_v2)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("kind", [1, 2, 7], ids=["bytes", "text", "undefined"])
def test_resolution_that_is_no_number_is_none(kind: int) -> None:
    """The picture beside it is whole, and is read."""
    data = tiff(COLORS, photometric="rgb", resolution=(10, 10), resolutionunit="CENTIMETER")
    assert decode_image(data, "a").metadata.dpi == pytest.approx((25.4, 25.4))
    place = data.index(struct.pack("<HHI", 282, 5, 1))
    damaged = data[:place] + struct.pack("<HHI4s", 282, kind, 4, b"abc\0") + data[place + 12 :]
    found = decode_image(damaged, "a")
    assert found.metadata.dpi is None
    assert np.array_equal(found.samples, COLORS)


@pytest.mark.parametrize("rows", [64, 65, 200])
def test_strips_need_no_pillow_that_knows_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Pillow 10.1 cannot enter the places of more than one."""
    tobytes = ImageFileDirectory_v2.tobytes

    def without_strips(tags: ImageFileDirectory_v2, offset: int = 0) -> bytes:
        assert 273 not in tags
        return tobytes(tags, offset)

    monkeypatch.setattr(ImageFileDirectory_v2, "tobytes", without_strips)
    samples = np.random.default_rng(0).integers(0, 65536, (rows, 5, 3), np.uint16)
    write_image(tmp_path / "a.tif", Picture(samples=samples, metadata=ImageMetadata(dpi=(300, 300))))
    monkeypatch.undo()
    assert np.array_equal(read_image(tmp_path / "a.tif").samples, samples)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), samples)


def test_thousands_of_numbers_in_a_damaged_file_are_not_all_told() -> None:
    """A count of bits for each channel that has grown: 600 numbers out of the picture itself."""
    samples = np.arange(30 * 30 * 3, dtype=np.uint16).reshape(30, 30, 3) + 20
    data = tiff(samples, photometric="rgb")
    place, values = data.index(struct.pack("<HHI", 258, 3, 3)), data.index(samples.tobytes())
    many = data[: place + 4] + struct.pack("<II", 600, values) + data[place + 12 :]
    words = "20, 21, 22, 23 and 596 more bits a sample"
    assert complaint(many) == f"'a' has {words}. Save it as grey or RGB with 8 or 16 bits a sample."
