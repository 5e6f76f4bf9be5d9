"""What stands beside the samples never spoils them, fits the larger picture, and goes on into other formats."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational
from support.pngs import chunk, chunks_of, png

from dfosd_core.errors import ImageFileError
from dfosd_core.image_files import png_read
from dfosd_core.image_files.carry import carry
from dfosd_core.image_files.exif import load_exif, resolution_of
from dfosd_core.image_files.icc import SRGB_CURVE, SRGB_PRIMARIES, curve, make_profile
from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.read import decode_image, read_image
from dfosd_core.image_files.write import write_image
from dfosd_core.image_files.xmp import scaled_xmp
from dfosd_core.settings import UpscaleSettings
from dfosd_core.sizes import Placement

RNG = np.random.default_rng(5)
COLORS = RNG.integers(0, 256, (48, 72, 3), np.uint8)
IMAGE = Image.fromarray(COLORS)
MILLION = "workflow " * 150_000
NAMES = ("a.png", "a.jpg", "a.webp", "a.avif", "a.tif")


def larger(picture: Picture, scale: int = 4) -> Picture:
    """As if upscaled."""
    samples = picture.samples.repeat(scale, 0).repeat(scale, 1)
    return Picture(samples=samples, metadata=picture.metadata)


def upscaled(path: Path, target: Path) -> Picture:
    write_image(target, larger(read_image(path)), overwrite=True)
    return read_image(target)


def encoded(name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    IMAGE.save(file, name, **options)
    return file.getvalue()


GARBAGE = {
    "EXIF (damaged)": [
        encoded("PNG", exif=b"Exif\0\0\0\x08\0\x02junk"),
        encoded("WEBP", exif=b"\0\x08\0\x02junkjunk"),
        encoded("JPEG", exif=b"Exif\0\0junkjunkjunk"),
    ],
    "the text 'Raw profile type exif' (damaged)": [
        png(IMAGE, chunk(b"tEXt", b"Raw profile type exif\0\nexif\n      12\nzzzz")),
        png(IMAGE, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 12\nabcd"))),
    ],
    "tEXt (wrong checksum)": [png(IMAGE, chunk(b"tEXt", b"Title\0a", checksum=1))],
    "iTXt (wrong checksum)": [png(IMAGE, chunk(b"iTXt", b"Title\0\0\0\0\0a", checksum=1))],
    "iCCP (wrong checksum)": [png(IMAGE, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"a"), checksum=1))],
    "gAMA (wrong checksum)": [png(IMAGE, chunk(b"gAMA", b"\0\1\2\3", checksum=1))],
    "the text 'Title' (damaged)": [
        png(IMAGE, chunk(b"zTXt", b"Title\0\0not deflated")),
        png(IMAGE, chunk(b"iTXt", b"Title\0\1\0\0\0" + zlib.compress(b"a" * 999)[:-6])),
        png(IMAGE, chunk(b"iTXt", b"Title\0")),
    ],
    "the colour profile (damaged)": [
        png(IMAGE, chunk(b"iCCP", b"a\0\0not deflated")),
        png(IMAGE, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 1_300_000))),
        encoded("JPEG", icc_profile=b"\0" * 300),
        encoded("WEBP", icc_profile=b"\0" * 300),
    ],
}


@pytest.mark.parametrize(("what", "data"), [(what, data) for what, files in GARBAGE.items() for data in files])
def test_damage_beside_the_picture_is_left_out_and_said(
    what: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    picture = decode_image(data, "a.png")
    assert picture.metadata.lost == (what,)
    assert [record.message for record in caplog.records] == [f"'a.png': left out: {what}."]
    if data[1:4] == b"PNG":
        assert np.array_equal(picture.samples, COLORS)
    assert picture.size == COLORS.shape[:2]


def itxt(key: str, value: str, *, packed: bool) -> bytes:
    text = zlib.compress(value.encode()) if packed else value.encode()
    return chunk(b"iTXt", key.encode() + bytes((0, packed, 0, 0, 0)) + text)


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b"workflow\0" + MILLION.encode()),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(MILLION.encode())),
        itxt("workflow", MILLION, packed=True),
        itxt("workflow", MILLION, packed=False),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_long_texts_are_kept(tmp_path: Path, text: bytes, behind: bool) -> None:
    data = png(IMAGE) if behind else png(IMAGE, text)
    data = data[:-12] + text + data[-12:] if behind else data
    (tmp_path / "a.png").write_bytes(data)
    assert upscaled(tmp_path / "a.png", tmp_path / "b.png").metadata.text == (("workflow", MILLION),)
    assert Image.open(tmp_path / "b.png").info["workflow"] == MILLION  # others can read it, too


def test_long_profile_is_kept(tmp_path: Path) -> None:
    profile = make_profile("sRGB", curve(*SRGB_CURVE), SRGB_PRIMARIES) + RNG.bytes(1_300_000)
    for data in (png(IMAGE, chunk(b"iCCP", b"a\0\0" + zlib.compress(profile))), encoded("JPEG", icc_profile=profile)):
        (tmp_path / "a").write_bytes(data)
        for name in NAMES:
            assert upscaled(tmp_path / "a", tmp_path / name).metadata.icc_profile == profile


def test_bomb_in_a_text_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_read, "_MAX_UNPACKED", 1000)
    bomb = chunk(b"zTXt", b"b\0\0" + zlib.compress(b"\0" * 900))
    picture = decode_image(png(IMAGE, bomb, bomb, itxt("c", "d" * 2000, packed=True)), "a")
    assert picture.metadata.lost == ("the text 'b' (too large)", "the text 'c' (too large)")
    assert [key for key, _ in picture.metadata.text] == ["b"]


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_without_its_end_is_read_and_one_without_samples_is_not(optimize: bool, progressive: bool) -> None:
    for quality in (50, 95):
        data = encoded("JPEG", optimize=optimize, progressive=progressive, quality=quality)
        expected = decode_image(data, "a").samples
        for end in (data[:-2], data[:-1], data[:-2] + b"\0" * 40):
            assert np.array_equal(decode_image(end, "a").samples, expected)
        for length in (len(data) - 10, len(data) * 2 // 3):
            with pytest.raises(ImageFileError, match="^'a' is damaged"):
                decode_image(data[:length], "a")


def test_png_without_its_end_is_read_and_one_without_samples_is_not() -> None:
    data = png(IMAGE)
    for end in (data[:-12], data[:-5], data + b"more", data[:-12] + chunk(b"tEXt", b"a\0b")[:-3]):
        assert np.array_equal(decode_image(end, "a").samples, COLORS)
    for length in (len(data) - 20, len(data) // 2, 60):
        with pytest.raises(ImageFileError, match="^'a' is damaged"):
            decode_image(data[:length], "a")


HEAD = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"><rdf:Description '
TAIL = "</rdf:Description></rdf:RDF></x:xmpmeta>"
TIFF, EXIF = 'xmlns:{0}="http://ns.adobe.com/tiff/1.0/"', 'xmlns:{0}="http://ns.adobe.com/exif/1.0/"'
GOOGLE = "http://ns.google.com/photos/1.0"


def xmp(namespaces: str, attributes: str = "", elements: str = "") -> bytes:
    return f"{HEAD}{namespaces}{attributes}>{elements}{TAIL}".encode()


ORIENTATIONS = [
    xmp(TIFF.format("tiff"), ' tiff:Orientation="6"'),
    xmp(TIFF.format("tiff"), " tiff:Orientation='6'"),
    xmp(TIFF.format("tiff"), ' tiff:Orientation = "6"'),
    xmp(TIFF.format("tiff"), "", "<tiff:Orientation>6</tiff:Orientation>"),
    xmp(TIFF.format("tiff"), "", "<tiff:Orientation>\n 6 </tiff:Orientation>"),
    xmp(TIFF.format("tiff"), "", "<tiff:Orientation >6</tiff:Orientation >"),
    xmp(TIFF.format("t"), ' t:Orientation="6"'),
    xmp(TIFF.format("ns1"), "", "<ns1:Orientation>6</ns1:Orientation>"),
    b"\xfe\xff" + xmp(TIFF.format("tiff"), ' tiff:Orientation="6"').decode().encode("utf-16-be"),
]


@pytest.mark.parametrize("packet", ORIENTATIONS)
@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.png"])
def test_orientation_in_any_spelling_is_honoured_and_removed(tmp_path: Path, name: str, packet: bytes) -> None:
    if name == "a.png":
        (tmp_path / name).write_bytes(
            png(IMAGE, itxt("XML:com.adobe.xmp", packet.decode("utf-8", "replace"), packed=False))
        )
        if packet[:1] == b"\xfe":
            pytest.skip("a PNG holds XMP in UTF-8")
    else:
        IMAGE.save(tmp_path / name, xmp=packet)
    found = read_image(tmp_path / name)
    assert found.size == (72, 48)
    assert b"Orientation" not in (found.metadata.xmp or b"")
    assert b"Description" in (found.metadata.xmp or b"")


def test_orientation_of_exif_counts_before_that_of_xmp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 1
    IMAGE.save(tmp_path / "a.jpg", exif=exif, xmp=ORIENTATIONS[0])
    assert read_image(tmp_path / "a.jpg").size == (48, 72)


def test_sizes_in_xmp_are_those_of_the_larger_picture(tmp_path: Path) -> None:
    names = {
        "tiff:ImageWidth": "288",
        "tiff:ImageLength": "192",
        "exif:PixelXDimension": "288",
        "exif:PixelYDimension": "192",
    }
    attributes = "".join(f' {name}="7"' for name in names)
    elements = "".join(f"<{name}> 7 </{name}>" for name in names)
    for packet in (xmp(TIFF.format("tiff") + " " + EXIF.format("exif"), attributes), xmp("", "", elements)):
        IMAGE.save(tmp_path / "a.jpg", xmp=packet)
        found = (upscaled(tmp_path / "a.jpg", tmp_path / "b.webp").metadata.xmp or b"").decode()
        for name, value in names.items():
            assert f'{name}="{value}"' in found or f"<{name}>{value}</{name}>" in found.replace(" ", "")
        assert "7" not in found.replace("http://ns.adobe.com/", "")


def test_panorama_grows_with_its_picture(tmp_path: Path) -> None:
    given = {"FullPanoWidthPixels": 96, "FullPanoHeightPixels": 50, "CroppedAreaImageWidthPixels": 72}
    given |= {"CroppedAreaImageHeightPixels": 48, "CroppedAreaLeftPixels": 12, "CroppedAreaTopPixels": 1}
    attributes = "".join(f' GPano:{name}="{value}"' for name, value in given.items())
    packet = xmp(f'xmlns:GPano="{GOOGLE}/panorama/"', attributes + ' GPano:ProjectionType="equirectangular"')
    IMAGE.save(tmp_path / "a.jpg", xmp=packet)
    found = (upscaled(tmp_path / "a.jpg", tmp_path / "b.jpg").metadata.xmp or b"").decode()
    for name, value in given.items():
        assert f'GPano:{name}="{4 * value}"' in found
    assert 'GPano:ProjectionType="equirectangular"' in found


@pytest.mark.parametrize("value", ["", "wide", "1e999", "nan", "300/0", "1/2/3"])
def test_numbers_in_xmp_that_are_none_stay_as_they_are(value: str) -> None:
    namespaces = f'{EXIF.format("exif")} xmlns:GPano="{GOOGLE}/panorama/"'
    attributes = f' exif:FocalPlaneXResolution="{value}" GPano:FullPanoWidthPixels="{value}"'
    packet = xmp(namespaces, attributes + ' exif:FocalPlaneYResolution="3000/10"')
    found = scaled_xmp(packet, (10, 10), (20, 20))
    assert found == packet.replace(b"3000/10", b"600000/1000")


REGIONS = (
    '<mwg-rs:Regions rdf:parseType="Resource">'
    '<mwg-rs:AppliedToDimensions stDim:w="72" stDim:h="48" stDim:unit="pixel"/>'
    '<mwg-rs:RegionList><rdf:Bag><rdf:li><rdf:Description mwg-rs:Name="Ada">'
    '<mwg-rs:Area stArea:x="0.5" stArea:w="0.1"/>'
    "</rdf:Description></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
)
REGION_NAMESPACE = 'xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"'


def test_face_regions_state_the_larger_size(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.jpg", xmp=xmp(REGION_NAMESPACE, "", REGIONS))
    found = (upscaled(tmp_path / "a.jpg", tmp_path / "b.jpg").metadata.xmp or b"").decode()
    assert '<mwg-rs:AppliedToDimensions stDim:w="288" stDim:h="192" stDim:unit="pixel"/>' in found
    assert '<mwg-rs:Area stArea:x="0.5" stArea:w="0.1"/>' in found


def test_places_in_a_picture_that_is_cut_are_left_out_and_its_size_is_said(tmp_path: Path) -> None:
    namespaces = f'xmlns:GPano="{GOOGLE}/panorama/" {EXIF.format("exif")}'
    panorama = xmp(namespaces, ' GPano:FullPanoWidthPixels="96" exif:PixelXDimension="72"')
    IMAGE.save(tmp_path / "a.jpg", exif=subject_exif(1), xmp=panorama)
    picture = read_image(tmp_path / "a.jpg")
    metadata = picture.metadata.placed(UpscaleSettings(width=200, height=100).placement(*picture.size))
    assert metadata.size == (100, 200)
    assert b"GPano:Full" not in (metadata.xmp or b"")
    assert b'exif:PixelXDimension="200"' in (metadata.xmp or b"")
    camera = load_exif(metadata.exif or b"").get_ifd(0x8769)
    assert (camera[0xA002], camera[0xA003]) == (200, 100)
    assert 0x9214 not in camera
    whole = UpscaleSettings(scale=2.0).placement(*picture.size)
    assert picture.metadata.placed(whole) is picture.metadata


def test_regions_of_a_turned_picture_are_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    IMAGE.save(tmp_path / "a.jpg", exif=exif, xmp=xmp(REGION_NAMESPACE, "", REGIONS + "<dc:title>t</dc:title>"))
    metadata = read_image(tmp_path / "a.jpg").metadata
    assert metadata.lost == ("regions in XMP (the picture was turned)",)
    assert metadata.xmp == xmp(REGION_NAMESPACE, "", "<dc:title>t</dc:title>")


def test_entries_of_what_lay_behind_the_picture_are_removed(tmp_path: Path) -> None:
    namespaces = f'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:C="{GOOGLE}/container/"'
    namespaces += f' xmlns:GCamera="{GOOGLE}/camera/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
    kept = ' dc:title="t" GCamera:SpecialTypeID="x"'
    gone = ' hdrgm:Version="1.0" hdrgm:GainMapMax="2" GCamera:MotionPhoto="1" GCamera:MicroVideoOffset="9"'
    gone += ' xmpNote:HasExtendedXMP="AB" GCamera:MotionPhotoPresentationTimestampUs="5"'
    items = "<C:Directory><rdf:Seq><rdf:li><C:Item/></rdf:li></rdf:Seq></C:Directory><hdrgm:Gamma>1</hdrgm:Gamma>"
    IMAGE.save(tmp_path / "a.jpg", xmp=xmp(namespaces, gone + kept, items))
    assert read_image(tmp_path / "a.jpg").metadata.xmp == xmp(namespaces, kept)


def subject_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    exif[0x8769] = {
        0x9214: (10, 20, 8, 4),
        0xA214: (10, 20),
        0xA002: 72,
        0xA003: 48,
        0xA20E: IFDRational(300),
        0xA20F: IFDRational(200),
    }
    return exif.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("orientation", "area"),
    [(1, (40, 80, 32, 16)), (3, (248, 112, 32, 16)), (6, (112, 40, 16, 32)), (8, (80, 248, 16, 32))],
)
def test_places_and_sizes_in_exif_are_those_of_the_larger_picture(
    tmp_path: Path, name: str, orientation: int, area: tuple[int, ...]
) -> None:
    IMAGE.save(tmp_path / "a.jpg", exif=subject_exif(orientation))
    upscaled(tmp_path / "a.jpg", tmp_path / name)
    camera = Image.open(tmp_path / name).getexif().get_ifd(0x8769)
    assert camera[0x9214] == area
    assert camera[0xA214] == area[:2]
    turned = orientation >= 5
    assert (camera[0xA002], camera[0xA003]) == ((192, 288) if turned else (288, 192))
    assert (camera[0xA20E], camera[0xA20F]) == ((800, 1200) if turned else (1200, 800))


def test_words_in_exif_that_are_not_english_stay(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[315] = "Jürgen Groß, 日本".encode()
    IMAGE.save(tmp_path / "a.jpg", exif=exif)
    for name in NAMES:
        upscaled(tmp_path / "a.jpg", tmp_path / name)
        assert "Jürgen Groß, 日本".encode() in (tmp_path / name).read_bytes()


@pytest.mark.parametrize("target", [*NAMES, "a.bmp"])
def test_no_resolution_in_none_out_and_a_stated_one_everywhere(tmp_path: Path, target: str) -> None:
    for source in (*NAMES, "a.bmp"):
        write_image(tmp_path / f"in{source}", Picture(samples=COLORS), overwrite=True)
        assert upscaled(tmp_path / f"in{source}", tmp_path / target).metadata.dpi is None, source
        stated = Picture(samples=COLORS, metadata=ImageMetadata(dpi=(300, 200)))
        write_image(tmp_path / f"in{source}", stated, overwrite=True)
        found = upscaled(tmp_path / f"in{source}", tmp_path / target).metadata.dpi
        assert found == pytest.approx((300, 200), rel=1e-3), source


@pytest.mark.parametrize(("unit", "dpi"), [(1, None), (2, (72.0, 90.0)), (3, (72.0 * 2.54, 90.0 * 2.54))])
def test_resolution_needs_both_directions_and_a_unit(unit: int, dpi: tuple[float, float] | None) -> None:
    exif = Image.Exif()
    exif[282], exif[296] = 72.0, unit
    assert resolution_of(exif) is None
    exif[283] = 90.0
    assert resolution_of(exif) == dpi


def test_resolution_of_a_turned_picture_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    IMAGE.save(tmp_path / "a.jpg", exif=exif, dpi=(300, 200))
    assert read_image(tmp_path / "a.jpg").metadata.dpi == (200, 300)


def test_jpeg_with_exif_that_states_no_resolution_has_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "Camera"
    IMAGE.save(tmp_path / "a.jpg", exif=exif)
    assert Image.open(tmp_path / "a.jpg").info["dpi"] == (72, 72)  # Pillow's guess
    assert read_image(tmp_path / "a.jpg").metadata.dpi is None


PARAMETERS = "a tree with a bird\nSteps: 40, Seed: 1, 日本"


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.tif"])
def test_texts_go_where_other_programs_look_for_them(tmp_path: Path, name: str) -> None:
    texts = (
        ("workflow", '{"a": 1}'),
        ("Title", "Ein Baum: ü"),
        ("parameters", PARAMETERS),
        ("prompt", "{}"),
        ("Author", "me"),
    )
    write_image(tmp_path / name, Picture(samples=COLORS, metadata=ImageMetadata(text=texts)))
    exif = Image.open(tmp_path / name).getexif()
    comment = cast("bytes", exif.get_ifd(0x8769)[0x9286])
    assert comment == b"UNICODE\0" + PARAMETERS.encode("utf-16-be")  # as the WebUIs write and read it
    assert (exif[271], exif[272]) == ('workflow:{"a": 1}', "prompt:{}")  # as ComfyUI does
    assert exif[315] == "me"
    assert exif[270].encode("latin-1").decode() == "Ein Baum: ü"


@pytest.mark.parametrize(
    ("key", "tag"), [("Description", 270), ("Title", 270), ("Software", 305), ("Author", 315), ("Copyright", 33432)]
)
def test_texts_go_where_exif_has_them(tmp_path: Path, key: str, tag: int) -> None:
    write_image(tmp_path / "a.jpg", Picture(samples=COLORS, metadata=ImageMetadata(text=((key, "by hand"),))))
    assert Image.open(tmp_path / "a.jpg").getexif()[tag] == "by hand"


def test_texts_without_a_place_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[271] = "Camera"
    texts = (("workflow", "{}"), ("mine", "a"), ("Comment", "b"))
    metadata = ImageMetadata(text=texts, exif=exif.tobytes())
    write_image(tmp_path / "a.webp", Picture(samples=COLORS, metadata=metadata))
    assert [record.message for record in caplog.records] == [
        f"'{tmp_path / 'a.webp'}': WEBP has no place for: the text 'workflow', the text 'mine'."
    ]
    found = Image.open(tmp_path / "a.webp").getexif()
    assert found[271] == "Camera"
    assert found.get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "b".encode("utf-16-be")


def test_what_is_too_long_for_a_jpeg_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metadata = ImageMetadata(text=(("parameters", MILLION), ("Comment", MILLION)), xmp=b"<x/>" * 20000)
    write_image(tmp_path / "a.jpg", Picture(samples=COLORS, metadata=metadata))
    assert caplog.records[0].message.endswith(
        "JPEG has no place for: long texts, XMP (more than 64 KB), the comment (more than 64 KB)."
    )
    assert read_image(tmp_path / "a.jpg").size == (48, 72)


def test_profile_for_a_jpeg_may_have_16_megabytes() -> None:
    """ICC.1 has it in up to 255 segments, about 16.7 million bytes."""
    for size, lost in ((16_000_000, ()), (16_000_001, ("the colour profile (more than 16 MB)",))):
        profile = bytes(size)
        carried = carry(ImageMetadata(icc_profile=profile), "JPEG", is_grey=False)
        assert carried.lost == lost
        assert carried.icc_profile == (None if lost else profile)


@pytest.mark.parametrize("name", ["a.jpg", "a.gif"])
def test_comment_goes_on_into_every_format(tmp_path: Path, name: str) -> None:
    (IMAGE if name == "a.jpg" else IMAGE.quantize(16)).save(tmp_path / name, comment="scanned by me, ü".encode())
    assert upscaled(tmp_path / name, tmp_path / "b.jpg").metadata.text == (("Comment", "scanned by me, ü"),)
    assert upscaled(tmp_path / name, tmp_path / "b.png").metadata.text == (("Comment", "scanned by me, ü"),)
    for other in ("b.webp", "b.avif", "b.tif"):
        upscaled(tmp_path / name, tmp_path / other)
        comment = Image.open(tmp_path / other).getexif().get_ifd(0x8769)[0x9286]
        assert cast("bytes", comment)[8:].decode("utf-16-be") == "scanned by me, ü"


IPTC = b"\x1c\x02\x78\0\x07caption" + b"\x1c\x02\x19\0\x03key"


def test_iptc_goes_through_jpeg_tiff_and_png(tmp_path: Path) -> None:
    block = b"8BIM\x03\xed\0\0\0\0\0\x02ab8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0"
    segment = b"Photoshop 3.0\0" + block
    IMAGE.save(tmp_path / "a.jpg", extra=b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment)
    for source in ("a.jpg", "b.tif", "c.png", "d.jpg"):
        for target in ("b.tif", "c.png", "d.jpg"):
            write_image(tmp_path / target, read_image(tmp_path / source), overwrite=True)
            assert read_image(tmp_path / target).metadata.iptc == IPTC, (source, target)


def test_profiles_in_imagemagicks_texts_are_read() -> None:
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Camera"

    def raw(name: str, content: bytes) -> bytes:
        text = f"\n{name}\n{len(content):8}\n{content.hex()}\n"
        return chunk(b"zTXt", f"Raw profile type {name}\0\0".encode() + zlib.compress(text.encode()))

    profile = make_profile("a", curve(1.0), SRGB_PRIMARIES)
    data = png(IMAGE, raw("exif", exif.tobytes()), raw("icc", profile), raw("xmp", xmp("")), raw("iptc", IPTC))
    found = decode_image(data, "a")
    assert found.size == (72, 48)
    assert found.metadata.icc_profile == profile
    assert found.metadata.xmp == xmp("")
    assert found.metadata.iptc == IPTC
    assert found.metadata.text == ()


def test_written_png_has_each_chunk_once_and_before_the_samples(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Title", "a")
    IMAGE.save(
        tmp_path / "a.png", pnginfo=info, dpi=(300, 300), icc_profile=make_profile("a", curve(1.0), SRGB_PRIMARIES)
    )
    for bits in (8, 16):
        picture = read_image(tmp_path / "a.png")
        samples = picture.samples if bits == 8 else picture.samples.astype(np.uint16) * 257
        write_image(tmp_path / "b.png", Picture(samples=samples, metadata=picture.metadata), overwrite=True)
        data = (tmp_path / "b.png").read_bytes()
        names = list(chunks_of(data))
        assert names[0] == b"IHDR"
        assert names[-2:] == [b"IDAT", b"IEND"]
        for name in (b"iCCP", b"pHYs", b"tEXt"):
            assert data.count(name) == 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey_is_found_in_any_depth(bits: int) -> None:
    top = 2**bits - 1
    values = [0, top, top // 3 or 1, top]
    row = b"\0" + int("".join(f"{value:0{bits}b}" for value in values).ljust(-(-4 * bits // 8) * 8, "0"), 2).to_bytes(
        -(-4 * bits // 8), "big"
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    for transparent in {0, top, top // 3}:
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", struct.pack(">H", transparent))
        data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
        samples = decode_image(data, "a").samples
        assert (samples[0, :, -1] == 0).tolist() == [value == transparent for value in values]
        assert samples[0, 1, 0] == np.iinfo(samples.dtype).max


def test_shape_of_pixels_is_no_resolution() -> None:
    """pHYs without a unit says how wide a pixel is to its height, and nothing of inches."""
    for unit, dpi in ((0, None), (1, (100.0, 50.0))):
        size = struct.pack(">IIB", 3937, 1969, unit)
        found = decode_image(png(IMAGE, chunk(b"pHYs", size)), "a.png").metadata.dpi
        assert found == (None if dpi is None else pytest.approx(dpi, rel=1e-3))


def test_segments_of_a_jpeg_lie_one_behind_the_other(tmp_path: Path) -> None:
    """Pillow forgives a wrong length; other readers lose what follows."""
    IMAGE.save(tmp_path / "a.png", pnginfo=_with_xmp())
    upscaled(tmp_path / "a.png", tmp_path / "a.jpg")
    data, place, kinds = (tmp_path / "a.jpg").read_bytes(), 2, []
    while data[place + 1] != 0xDA:
        assert data[place] == 0xFF, f"no segment at {place}, after {kinds}"
        (length,) = struct.unpack_from(">H", data, place + 2)
        kinds.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    packets = [content for kind, content in kinds if kind == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/")]
    assert [packet.endswith(TAIL.encode()) for packet in packets] == [True]


def _with_xmp() -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(TIFF.format("tiff")).decode())
    return info


def test_place_on_earth_is_named_where_the_picture_is_cut_and_only_there() -> None:
    geo = ((33550, 12, (2.0, 2.0, 0.0)),)
    cut, whole = Placement(scaled=(40, 40), output=(40, 30)), Placement(scaled=(40, 40), output=(40, 40))
    for metadata, placement, words in (
        (ImageMetadata(geo=geo, size=(10, 10)), cut, ["the place on earth (the picture was cut or padded)"]),
        (ImageMetadata(geo=geo, size=(10, 10)), whole, []),
        (ImageMetadata(size=(10, 10)), cut, []),
    ):
        placed = metadata.placed(placement)
        assert list(placed.lost) == words
        assert (placed.geo == ()) == (words != [] or not metadata.geo)


@pytest.mark.parametrize("name", ["a.avif", "a.png", "a.tif"])
def test_what_is_long_for_a_jpeg_is_kept_where_there_is_room(tmp_path: Path, name: str) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 70_000 + b"</x:xmpmeta>"
    picture = Picture(samples=COLORS, metadata=ImageMetadata(xmp=xmp))
    write_image(tmp_path / name, picture, overwrite=True)
    assert read_image(tmp_path / name).metadata.xmp == xmp


@pytest.mark.parametrize(("name", "channels"), [("a.tif", 4), ("a.png", 2)])
def test_deep_grey_with_alpha_is_coloured_in_a_tiff_alone(tmp_path: Path, name: str, channels: int) -> None:
    samples = RNG.integers(0, 65536, (6, 7, 2), np.uint16)
    write_image(tmp_path / name, Picture(samples=samples), overwrite=True)
    found = read_image(tmp_path / name).samples
    assert found.shape[2] == channels
    assert np.array_equal(found[..., [0, -1]], samples)


def test_thousands_of_damaged_entries_are_not_all_told(caplog: pytest.LogCaptureFixture) -> None:
    decode_image(png(IMAGE, *(chunk(b"tEXt", b"%d\0a" % i, checksum=1) for i in range(3000))), "a.png")
    entries = [chunk(b"zTXt", b"%d\0\0not deflated" % i) for i in range(3000)]
    decode_image(png(IMAGE, *entries), "b.png")
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)
    assert "and 2980 more" in caplog.records[-1].getMessage()
