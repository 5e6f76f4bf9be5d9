"""Other methods' LoRAs, full size with random weights, inside running WebUIs, as they are.

The checkpoint must have its text encoder. conftest.py says where the files come from.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import foreign_loras
import numpy as np
import pytest
import safetensors.torch
import torch
from foreign_loras import FOLDER
from webui_calls import SHARED, ok, options, picture, probed, state, txt2img
from webui_process import WebUI

from dfosd_core.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
WITH_LORA = "a cat <lora:user_lora:1>"
COMPLAINT = re.compile("^network |match|not loaded|skipped [1-9]", re.IGNORECASE)
"""What the WebUIs say of a LoRA in the prompt: A1111, Forge, reForge, Forge."""


@pytest.mark.parametrize("name", foreign_loras.RUNS)
def test_gives_the_image_of_the_standalone_host(foreign: Path, webui: WebUI, name: str) -> None:
    """Also right after an image with the user's LoRA, in the UNet and in the text encoder, which is back afterwards."""
    before = txt2img(webui), txt2img(webui, WITH_LORA)
    assert before[0] != before[1]
    run = foreign_loras.RUNS[name]
    choice = {"lora": f"{FOLDER}/{run.lora}"}
    if run.decoder:
        choice["decoder"] = f"{FOLDER}/{run.decoder}"
    answer, output = probed(webui, choice, **run.settings)
    assert answer["host"] == ("LightHost" if run.decoder else SHARED[webui.name])
    assert answer["hooks_left"] == 0
    again, second = probed(webui, choice, **run.settings)
    assert again["weights_unchanged"]
    assert torch.equal(output, second)
    assert txt2img(webui, WITH_LORA) == before[1]
    assert txt2img(webui) == before[0]
    expected = image_of(foreign, name)
    assert (output - expected).abs().max() < 2e-3
    assert name == run.lora or (output - image_of(foreign, run.lora)).abs().max() > 0.01
    _, plain = probed(webui, choice, **dict(run.settings, strength=0.0))
    assert (plain - output).abs().max() > 0.01
    print(webui.name, name, float((output - expected).abs().max()), answer["seconds"], again["seconds"])  # noqa: T201


def image_of(foreign: Path, name: str) -> torch.Tensor:
    """What our own networks make of `input_image()`."""
    return torch.from_numpy(np.load(foreign / f"{name}.npy"))


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


def test_hosts_own_loader_takes_an_exported_one_whole(
    foreign: Path, webui: WebUI, capsys: pytest.CaptureFixture[str]
) -> None:
    """OSEDiff's, whose first convolution is changed in full, as `<lora:...>` in a prompt of the user's."""
    checkpoint = next((webui.root / "models" / "Stable-diffusion").glob("*.safetensors"))
    out = webui.root / "models" / "Lora" / "dfosd_exported.safetensors"
    out.unlink(missing_ok=True)
    words = ["export", "--kohya", str(foreign / "osediff.pkl"), "--base", str(checkpoint), "-o", str(out)]
    assert main(words) == 0, capsys.readouterr().err
    try:
        plain = txt2img(webui)
        ok(webui.post("/dfosd-probe/unet_changes", {}))
        log = len(webui.text())
        image = txt2img(webui, "a cat <lora:dfosd_exported:1>")
        found = ok(webui.post("/dfosd-probe/unet_changes", {}))
        assert image != plain
        parts = ("lora_up.weight", "diff", "diff_b")
        wanted = [key for key in safetensors.torch.load_file(out) if key.split(".", 1)[1] in parts]
        said = [*webui.text()[log:].splitlines(), *found["said"]]
        assert [line for line in said if COMPLAINT.search(line)] == []
        assert found["changed"] == len(wanted)
        assert txt2img(webui) == plain
        assert ok(webui.post("/dfosd-probe/unet_changes", {}))["changed"] == len(wanted)
        with capsys.disabled():
            print(webui.name, found["changed"], [line for line in said if out.stem in line])  # noqa: T201
    finally:
        out.unlink()


def test_damaged_one_is_refused_in_a_line(foreign: Path, webui: WebUI) -> None:
    whole = (foreign / "osediff.pkl").read_bytes()
    (foreign / "half.pkl").write_bytes(whole[: len(whole) // 2])
    body = {"image": picture(8, 8), "lora": f"{FOLDER}/half.pkl"}
    status, answer = webui.post("/dfosd/v1/upscale", body)
    assert status == 422
    assert "'half.pkl' is damaged" in answer
    (foreign / "half.pkl").unlink()
