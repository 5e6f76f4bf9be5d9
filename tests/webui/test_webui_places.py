"""The upscaler where users of WebUIs meet it: the API of Extras, hires fix, img2img's "SD upscale"."""

from __future__ import annotations

import json
from typing import Any

import pytest
from webui_calls import EMBEDDED, hires, ok, opened, options, picture
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
QUIET = {"override_settings": {"live_previews_enable": False}}
SMALL = {"steps": 1, "width": 64, "height": 64, "seed": 5, "sampler_name": "Euler", "prompt": "a cat"}


@pytest.mark.parametrize("name", ["DFOSD x4", "Lanczos"])
@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ({"resize_mode": 0, "upscaling_resize": 2}, (192, 128)),
        ({"resize_mode": 1, "upscaling_resize_w": 144, "upscaling_resize_h": 96}, (144, 96)),
        # Forge's issue 3123: this mode does not look at `upscaling_resize`.
        ({"resize_mode": 1, "upscaling_resize": 2, "upscaling_resize_w": 96, "upscaling_resize_h": 64}, (96, 64)),
    ],
)
def test_extras_api_by_scale_and_by_size(
    webui: WebUI, name: str, wanted: dict[str, Any], size: tuple[int, int]
) -> None:
    with options(webui, dfosd_lora=EMBEDDED["lora"]):
        body = {"image": picture(96, 64), "upscaler_1": name, **wanted}
        result = opened(ok(webui.post("/sdapi/v1/extra-single-image", body))["image"])
    assert result.size == size


def test_hires_fix_says_what_it_used(webui: WebUI) -> None:
    with options(webui, dfosd_lora=EMBEDDED["lora"]):
        answer = ok(webui.post("/sdapi/v1/txt2img", {**SMALL, **QUIET, **hires(2)}))
    image = opened(answer["images"][0])
    assert image.size == (128, 128)
    assert "Hires upscaler: DFOSD x4" in json.loads(answer["info"])["infotexts"][0]
    assert "Hires upscaler: DFOSD x4" in image.info["parameters"]


def test_sd_upscale(webui: WebUI) -> None:
    """Two by two tiles of a picture that DFOSD has made twice as large."""
    job = {"init_images": [picture(64, 64)], "denoising_strength": 0.3, "script_name": "SD upscale"}
    script = {"script_args": [None, 16, "DFOSD x4", 2]}
    with options(webui, dfosd_lora=EMBEDDED["lora"]):
        answer = ok(webui.post("/sdapi/v1/img2img", {**SMALL, **QUIET, **job, **script}))
        plain = {"script_args": [None, 16, "Lanczos", 2]}
        other = ok(webui.post("/sdapi/v1/img2img", {**SMALL, **QUIET, **job, **plain}))
    images = [opened(each["images"][0]) for each in (answer, other)]
    assert [image.size for image in images] == [(128, 128)] * 2
    assert images[0].tobytes() != images[1].tobytes()
