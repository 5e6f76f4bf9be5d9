"""DFOSD inside running WebUIs. Their checkpoint is an SD 2.1-base, of random weights if need be.

Files the host must have: in models/DFOSD a DFOSD LoRA for that base, named DFOSD_TEST_LORA there (the test of the
shared checkpoint is skipped without it), in models/Lora an ordinary LoRA `user_lora`.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
import torch
from webui_calls import (
    EMBEDDED,
    assert_embedded,
    hires,
    lora_of_the_test,
    ok,
    opened,
    picture,
    probed,
    reference,
    state,
    txt2img,
)
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_starts_without_a_complaint(webui: WebUI) -> None:
    lines = [line for line in webui.said_at_start.splitlines() if "dfosd" in line.lower()]
    assert not [line for line in lines if "Error" in line or "Traceback" in line]
    assert (webui.root / "models" / "DFOSD").is_dir()


def test_embedded_equals_the_standalone_host(webui: WebUI) -> None:
    answer, output = probed(webui, EMBEDDED, scale=4.0)
    assert answer["host"] == "OwnHost"
    assert_embedded(output)


@pytest.mark.parametrize(("size", "scale"), [((31, 17), 4), ((125, 9), 2), ((20, 20), 1.5), ((9, 9), 1)])
def test_upscaler_gives_the_exact_size(webui: WebUI, size: tuple[int, int], scale: float) -> None:
    """Hosts' own upscalers cut to multiples of 8."""
    body = {"image": picture(*size), "upscaling_resize": scale, "upscaler_1": "DFOSD x4"}
    result = opened(ok(webui.post("/sdapi/v1/extra-single-image", body))["image"])
    assert result.size == (round(size[0] * scale), round(size[1] * scale))


def test_none_for_every_argument_is_off(webui: WebUI) -> None:
    body = {"image": picture(8, 8), "upscaling_resize": 2, "upscaler_1": "Lanczos"}
    assert opened(ok(webui.post("/sdapi/v1/extra-single-image", body))["image"]).size == (16, 16)


def test_route_upscales_with_alpha(webui: WebUI) -> None:
    body = {"image": picture(12, 20, "RGBA"), **EMBEDDED, "settings": {"scale": 2, "color_fix": "adain"}}
    answer = ok(webui.post("/dfosd/v1/upscale", body))
    result = opened(answer["image"])
    assert (result.size, result.mode) == ((24, 40), "RGBA")
    assert answer["info"]["DFOSD color fix"] == "adain"


@pytest.mark.parametrize("login", [None, ("somebody", "wrong")])
def test_route_wants_the_hosts_password(webui: WebUI, login: tuple[str, str] | None) -> None:
    assert webui.post("/dfosd/v1/upscale", {"image": picture(8, 8)}, login)[0] == 401


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"settings": {"scale": 99}}, "Expected scale from 1 to 8, found 99"),
        ({"settings": {"size": 2}}, "There is no setting 'size'"),
        ({"lora": "nothing.safetensors"}, "There is no LoRA 'nothing.safetensors'"),
        ({"image": base64.b64encode(b"no image").decode()}, "'image' is damaged or not a PNG"),
        ({"image": "/etc/passwd"}, "Expected an image file in base64"),
        ({"image": "http://127.0.0.1/x.png"}, "Expected an image file in base64"),
        ({"image": picture(4000, 3000), "settings": {"scale": 8}}, "at most 100 are made"),
    ],
)
def test_route_says_what_is_wrong(webui: WebUI, body: dict[str, Any], words: str) -> None:
    status, answer = webui.post("/dfosd/v1/upscale", {"image": picture(8, 8), **EMBEDDED, **body})
    assert status == 422
    assert words in answer


def test_users_checkpoint_stays_and_makes_the_same_images(webui: WebUI) -> None:
    """Before and after, with a LoRA of the user's and without, and with DFOSD in the middle of a generation."""
    prompts = ("a cat", "a cat <lora:user_lora:1>")
    before = [txt2img(webui, prompt) for prompt in prompts]
    assert before[0] != before[1]
    checkpoint = state(webui)["checkpoint"]
    probed(webui, EMBEDDED)
    in_the_middle = [txt2img(webui, prompts[1], **hires()) for _ in range(2)]
    assert in_the_middle[0] == in_the_middle[1]
    assert [txt2img(webui, prompt) for prompt in prompts] == before
    assert state(webui)["checkpoint"] == checkpoint


def test_shared_checkpoint_equals_the_standalone_host(webui: WebUI) -> None:
    """Also right after an image with the user's LoRA, which must not act in ours, and is back afterwards."""
    name = lora_of_the_test()
    before = txt2img(webui, "a cat <lora:user_lora:1>")
    answer, output = probed(webui, {"lora": name}, scale=4.0)
    assert answer["host"] in ("ForgeHost", "ReforgeHost", "A1111Host")
    # The first call may take the user's LoRA out of the weights: hosts merge it in. The second changes nothing.
    assert answer["hooks_left"] == 0
    again, second = probed(webui, {"lora": name}, scale=4.0)
    assert again["weights_unchanged"]
    assert torch.equal(output, second)
    assert txt2img(webui, "a cat <lora:user_lora:1>") == before
    _, other = probed(webui, {"lora": name}, scale=4.0, strength=0.0)
    assert (other - output).abs().max() > 0.01
    expected = reference(webui.root, name)
    assert (output - expected).abs().max() < 2e-3
    cost = ok(webui.post("/dfosd-probe/hook_cost", {"lora": name, "latents": 32}))
    print(answer["host"], float((output - expected).abs().max()), answer["seconds"], cost)  # noqa: T201


def test_reload_ui_leaves_one_of_each(webui: WebUI) -> None:
    starts = webui.text().count("Startup time")
    ok(webui.post("/dfosd-probe/reload_ui", {}))
    webui.wait_until_up(starts + 1)
    assert state(webui)["upscalers"].count("DFOSD x4") == 1
    body = {"image": picture(8, 8), **EMBEDDED}
    assert opened(ok(webui.post("/dfosd/v1/upscale", body))["image"]).size == (32, 32)
