"""Pictures and settings on their way through the WebUI's faces, with a few empty modules as the host."""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, ImageCms
from support.fakes.empty_webui import PACK, faces
from support.fuzz.changes import odd_bytes
from support.fuzz.samples import pictures
from support.tiny_models import random_lora, tiny_host

from dfosd_core.image_files.metadata import ImageMetadata
from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.read import decode_image, read_image
from dfosd_core.image_files.write import encode_image, write_image
from dfosd_core.settings import COLOR_FIX_NAMES, UpscaleSettings

LIMITS = {name: field.metadata for name, field in UpscaleSettings.__dataclass_fields__.items()}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(3)


@pytest.fixture
def face() -> Iterator[Callable[[str], Any]]:
    """Imports a module of nodes/webui as the host does, below another package's name."""
    with faces() as import_face:
        yield import_face


@pytest.fixture
def run(face: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """run.py with a tiny model, whatever is chosen."""
    host, run = tiny_host(), face("run")
    model = run.Model(host=host, lora=random_lora(host), lora_name="tiny", base_name="tiny", device=torch.device("cpu"))

    @contextmanager
    def chosen_model(_: object) -> Iterator[Any]:
        yield model

    monkeypatch.setattr(run, "chosen_model", chosen_model)
    return run


def ask(api: Any, image: str, settings: Any) -> Any:
    """As the route is called; FastAPI fills in what is not sent."""
    return api.upscale(image, "automatic", "automatic", settings, "full")


def test_route_keeps_16_bits_and_the_colour_profile(run: Any, face: Callable[[str], Any]) -> None:
    api, file = face("api"), io.BytesIO()
    samples = RNG.integers(0, 65536, (6, 5, 3), np.uint16)
    encode_image(file, "PNG", Picture(samples=samples, metadata=ImageMetadata(icc_profile=SRGB)))
    text = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    answer = ask(api, text, {"scale": "2", "color_fix": "none"})
    result = decode_image(base64.b64decode(answer["image"]), "result")
    assert (answer["height"], answer["width"]) == result.size == (12, 10)
    assert (result.is_16_bit, result.is_grey) == (True, False)
    assert len(np.unique(result.samples % 257)) > 20
    assert result.metadata.icc_profile == SRGB
    assert answer["info"]["DFOSD scale"] == "2"


@pytest.mark.parametrize(
    ("image", "settings", "words"),
    [
        ("/etc/passwd", {}, "Expected an image file in base64"),
        (base64.b64encode(b"no image").decode(), {}, "'image' is damaged or not a PNG"),
        ("", {"scale": 99}, "Expected scale from 1 to 8, found 99"),
        ("", {"size": 2}, "There is no setting 'size'"),
        (None, {"scale": 8}, "'image' would become 32000x24000, 768 megapixels; at most 100 are made."),
    ],
)
def test_route_says_what_is_wrong(
    run: Any, face: Callable[[str], Any], image: str | None, settings: dict[str, Any], words: str
) -> None:
    api, file = face("api"), io.BytesIO()
    Image.new("1", (4000, 3000)).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode() if image is None else image
    with pytest.raises(api.HTTPException) as caught:
        ask(api, text, settings)
    assert caught.value.status_code == 422
    assert words in caught.value.detail


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) show\n%%EOF\n"


def test_route_opens_no_format_that_starts_a_program(
    run: Any, face: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow hands EPS to Ghostscript."""

    def start(*_: Any, **__: Any) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr("subprocess.Popen", start)
    api = face("api")
    for data in (EPS, b"\xc5\xd0\xd3\xc6" + EPS):
        with pytest.raises(api.HTTPException, match="is damaged or not a PNG") as caught:
            ask(api, base64.b64encode(data).decode(), {})
        assert caught.value.status_code == 422


def test_16_bit_grey_comes_back_as_it_was_and_floats_are_refused(run: Any, face: Callable[[str], Any]) -> None:
    """Not 55 % white, and not black."""
    api, file = face("api"), io.BytesIO()
    ramp = np.linspace(0, 65535, 240).astype(np.uint16).reshape(12, 20)
    Image.fromarray(ramp).save(file, "TIFF")
    answer = ask(api, base64.b64encode(file.getvalue()).decode(), {"scale": 1})
    result = decode_image(base64.b64decode(answer["image"]), "result")
    assert (result.is_16_bit, result.is_grey) == (True, True)
    assert abs(float(result.samples.mean()) - float(ramp.mean())) < 2000
    floats = io.BytesIO()
    Image.fromarray(ramp.astype(np.float32)).save(floats, "TIFF")
    with pytest.raises(api.HTTPException, match="floating-point samples") as caught:
        ask(api, base64.b64encode(floats.getvalue()).decode(), {})
    assert caught.value.status_code == 422


def test_damaged_files_and_texts_are_422(run: Any, face: Callable[[str], Any]) -> None:
    api, rng, answers = face("api"), Random(0), list[tuple[int, str]]()
    for number in range(300):
        text = base64.b64encode(odd_bytes(rng, rng.choice(list(pictures().values())))).decode()
        if number % 10 == 0:
            text = rng.choice((text[:-1], text + "\u4e2d", "data:," + text, "data:", "=", "\0", "\udcff" * 3))
        try:
            ask(api, text, {"scale": 1})
        except api.HTTPException as error:
            answers.append((error.status_code, error.detail))
    assert len(answers) > 100
    assert {status for status, _ in answers} == {422}
    assert all(detail.isprintable() for _, detail in answers)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"image": Infinity}', "Expected a text as 'image', found float."),
        ('{"image": ["\\udcff"]}', "Expected a text as 'image', found list."),
        ('{"image": "a", "settings": [NaN]}', "Expected an object as 'settings', found list."),
        ('{"image": "a", "lora": null}', "Expected a text as 'lora', found NoneType."),
        ('{"image": "a", "base": 1e400}', "Expected a text as 'base', found float."),
        ('{"image": "a", "decoder": {"a": NaN}}', "Expected a text as 'decoder', found dict."),
    ],
)
def test_other_types_in_a_body_are_one_line(run: Any, face: Callable[[str], Any], body: str, words: str) -> None:
    api, application = face("api"), FastAPI()
    application.add_api_route(api.ROUTE, api.upscale, methods=["POST"])
    answer = TestClient(application).post(api.ROUTE, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (422, {"detail": words})


def test_route_tells_no_folder(run: Any, face: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    api, file = face("api"), io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    for name in ("/srv/my models/DFOSD/x.safetensors", "C:\\models\\x.safetensors", "x.safetensors"):

        def refuse(*_: Any, name: str = name) -> None:
            raise api.DfosdError(f"'{name}' is damaged. It isn't in 'models'.")

        monkeypatch.setattr(api, "upscale_chosen", refuse)
        with pytest.raises(api.HTTPException) as caught:
            ask(api, base64.b64encode(file.getvalue()).decode(), {})
        assert caught.value.detail == "'x.safetensors' is damaged. It isn't in 'models'."


def test_output_that_is_not_finite_is_the_routes_fault(
    run: Any, face: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, file = face("api"), io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    pipeline = importlib.import_module(f"{PACK}.dfosd_core.pipeline")
    monkeypatch.setattr(pipeline, "upscale_attached", lambda image, *_: image * torch.nan)
    with pytest.raises(api.HTTPException, match="not finite") as caught:
        ask(api, base64.b64encode(file.getvalue()).decode(), {})
    assert caught.value.status_code == 500


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_image_of_extras_keeps_its_mode_and_colour_profile(run: Any, mode: str) -> None:
    image = Image.new(mode, (5, 4), 40000 if mode == "I;16" else None)
    image.info["icc_profile"] = SRGB if "RGB" in mode else SRGB[:16] + b"GRAY" + SRGB[20:]
    larger, _ = run.upscale_image(image, UpscaleSettings(scale=2.0), None)
    assert (larger.mode, larger.size) == (mode, (10, 8))
    assert larger.info["icc_profile"] == image.info["icc_profile"]
    if mode == "I;16":
        assert abs(int(np.asarray(larger).astype(int).mean()) - 40000) < 2000


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "I;16"])
def test_upscaler_gives_8_bit_rgb(run: Any, face: Callable[[str], Any], mode: str) -> None:
    rgb = Image.new("RGB", (5, 4), (100, 100, 100))
    others = {"P": rgb.quantize(8), "I;16": Image.new("I;16", rgb.size, 100 * 257)}  # not by `convert`: it rounds
    image = others[mode] if mode in others else rgb.convert(mode)
    upscaler = face("upscaler").UpscalerDFOSD()
    larger = upscaler.upscale(image, 2)
    assert (larger.mode, larger.size) == ("RGB", (10, 8))
    assert np.array_equal(np.asarray(larger), np.asarray(upscaler.upscale(rgb, 2)))


def test_settings_page_has_the_settings_own_limits_defaults_and_help(face: Callable[[str], Any]) -> None:
    page = face("options")
    page.add_options()
    added = page.shared.opts.added
    assert added["dfosd_color_fix"][2] == {"choices": list(COLOR_FIX_NAMES)}
    for name in ("strength", "pixel_strength", "unet_tile", "vae_tile"):
        default, label, arguments = added[f"dfosd_{name}"]
        assert arguments["maximum"] == LIMITS[name]["max"]
        assert label.startswith(LIMITS[name]["help"].split(";")[0].removesuffix("."))
        assert default == (1.0 if name == "strength" else page.NOT_GIVEN)
    assert added["dfosd_unet_tile"][1].endswith("0: no tiles. -1: automatic")
    assert added["dfosd_unet_tile"][2] == {"minimum": -1, "maximum": 8192, "step": 1}
    assert added["dfosd_pixel_strength"][1].endswith("calls the UNet twice. -1: not used")
    assert added["dfosd_pixel_strength"][2] == {"minimum": -1, "maximum": 2.0, "step": 0.05}


def test_untouched_settings_page_gives_the_default_settings(face: Callable[[str], Any]) -> None:
    assert vars(face("options").upscaler_settings(4.0)) == vars(UpscaleSettings())


def test_what_is_set_on_the_settings_page_is_used(face: Callable[[str], Any]) -> None:
    page = face("options")
    values = {"color_fix": "lab", "strength": 0.5, "pixel_strength": 0, "unet_tile": 8192.0, "vae_tile": 0}
    for name, value in values.items():
        setattr(page.shared.opts, f"dfosd_{name}", value)
    expected = UpscaleSettings(scale=2.0, color_fix="lab", strength=0.5, pixel_strength=0.0, unet_tile=8192, vae_tile=0)
    assert vars(page.upscaler_settings(2.0)) == vars(expected)


def test_file_of_the_tab_keeps_its_bits_and_shows_progress_in_the_host(
    run: Any, face: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = face("tab")
    monkeypatch.setattr(tab, "chosen_model", run.chosen_model)
    runner = importlib.import_module(f"{PACK}.dfosd_core.app.runner")
    write_image(tmp_path / "a.png", Picture(samples=RNG.integers(0, 65536, (6, 5, 3), np.uint16)))
    seen: list[str] = []
    with tab.engine(runner.Request(settings=UpscaleSettings(scale=2.0))) as upscale_file:
        size = upscale_file(tmp_path / "a.png", tmp_path / "b.png", lambda now: seen.append(now.phase))
    assert size == (12, 10)
    assert read_image(tmp_path / "b.png").is_16_bit
    assert seen == ["encode", "unet", "decode"]
    state = tab.shared.state
    assert (state.sampling_step, state.sampling_steps, state.textinfo, state.job) == (3, 3, "DFOSD: a.png", "")
