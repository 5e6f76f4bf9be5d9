"""Other methods' LoRAs, full size with random weights, inside running WebUIs, as they are.

The checkpoint must have its text encoder. conftest.py says where the files come from.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import foreign_loras
import numpy as np
import pytest
import torch
from foreign_loras import FOLDER
from webui_calls import SHARED, ok, options, picture, probed, state, txt2img
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
WITH_LORA = "a cat <lora:user_lora:1>"


@pytest.mark.parametrize("name", foreign_loras.NAMES)
def test_gives_the_image_of_the_standalone_host(foreign: Path, webui: WebUI, name: str) -> None:
    """Also right after an image with the user's LoRA, in the UNet and in the text encoder, which is back afterwards."""
    before = txt2img(webui), txt2img(webui, WITH_LORA)
    assert before[0] != before[1]
    choice = {"lora": f"{FOLDER}/{name}"}
    answer, output = probed(webui, choice, scale=4.0)
    assert answer["host"] == SHARED[webui.name]
    assert answer["hooks_left"] == 0
    again, second = probed(webui, choice, scale=4.0)
    assert again["weights_unchanged"]
    assert torch.equal(output, second)
    assert txt2img(webui, WITH_LORA) == before[1]
    assert txt2img(webui) == before[0]
    expected = torch.from_numpy(np.load(foreign / f"{name}.npy"))
    assert (output - expected).abs().max() < 2e-3
    _, plain = probed(webui, choice, scale=4.0, strength=0.0)
    assert (plain - output).abs().max() > 0.01
    print(webui.name, name, float((output - expected).abs().max()), answer["seconds"], again["seconds"])  # noqa: T201


def test_empty_prompt_is_the_hosts_own(foreign: Path, webui: WebUI) -> None:
    """Whatever the user's settings are, and with a LoRA of the user's on the text encoder."""
    name = f"{FOLDER}/osediff.pkl"
    plain = txt2img(webui)
    answer = ok(webui.post("/dfosd-probe/prompts", {"lora": name}))
    print(webui.name, answer)  # noqa: T201
    assert answer["weights_unchanged"]
    assert answer["size"] > 0.1
    assert answer["difference"] < 1e-3
    with options(webui, CLIP_stop_at_last_layers=3, emphasis="No norm"):
        clipped, with_lora = txt2img(webui), txt2img(webui, WITH_LORA)
        _, output = probed(webui, {"lora": name})
        assert (txt2img(webui), txt2img(webui, WITH_LORA)) == (clipped, with_lora)
    ok(webui.post("/dfosd-probe/prompts", {"lora": name}))
    assert torch.equal(output, probed(webui, {"lora": name})[1])
    assert txt2img(webui) == plain


def test_every_face_takes_it_and_says_where_it_comes_from(foreign: Path, webui: WebUI) -> None:
    name = f"{FOLDER}/pisa_sr.pkl"
    body: dict[str, Any] = {"image": picture(16, 16), "lora": name, "settings": {"scale": 4}}
    info = ok(webui.post("/dfosd/v1/upscale", body))["info"]
    assert info["DFOSD model"] == name
    start = "PiSA-SR. Licence: Apache-2.0 by its README; no licence file. SHA-256: "
    assert info["DFOSD LoRA source"].startswith(start)
    with options(webui, dfosd_lora=name):
        started = time.perf_counter()
        ok(webui.post("/sdapi/v1/extra-single-image", {**body, "upscaling_resize": 4, "upscaler_1": "DFOSD x4"}))
        print(webui.name, "upscaler", time.perf_counter() - started)  # noqa: T201
    assert sorted(state(webui)["kept"]) == ["lora", "prompt"]
    options_page = ok(webui.post("/dfosd-probe/lists", {}))["loras"]
    assert [f"{FOLDER}/{known}" for known in foreign_loras.NAMES if f"{FOLDER}/{known}" not in options_page] == []


def test_damaged_one_is_refused_in_a_line(foreign: Path, webui: WebUI) -> None:
    whole = (foreign / "osediff.pkl").read_bytes()
    (foreign / "half.pkl").write_bytes(whole[: len(whole) // 2])
    body = {"image": picture(8, 8), "lora": f"{FOLDER}/half.pkl"}
    status, answer = webui.post("/dfosd/v1/upscale", body)
    assert status == 422
    assert "'half.pkl' is damaged" in answer
    (foreign / "half.pkl").unlink()
