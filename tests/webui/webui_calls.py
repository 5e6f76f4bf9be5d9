"""What tests ask of a running WebUI, and the same from our own networks to compare with."""

from __future__ import annotations

import base64
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from webui_process import WebUI

from dfosd_core.hosts.own import fast_dtype, load_base, load_default
from dfosd_core.lora.file import load_lora
from dfosd_core.pipeline import UpscaleSettings, upscale

EMBEDDED = {"lora": "embedded small x4"}
SHARED = {"forge": "ForgeHost", "reforge": "ReforgeHost", "a1111": "A1111Host"}
"""The `Host` over the checkpoint that a WebUI has loaded."""
SHAPE = [1, 32, 48, 3]
"""Times 4 a multiple of 64: A1111 pads to that, which changes what a base with group norms makes of the whole."""


def picture(width: int, height: int, mode: str = "RGB") -> str:
    """Noise, as a file in base64."""
    x = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(x).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def opened(text: str) -> Image.Image:
    """The image of an answer."""
    return Image.open(io.BytesIO(base64.b64decode(text.split(",")[-1])))


def ok(answer: tuple[int, Any]) -> Any:
    """The content of an answer that has to be good."""
    status, content = answer
    assert status == 200, content
    return content


def checksum(text: str) -> int:
    """Of the pixels."""
    return zlib.crc32(np.asarray(opened(text)).tobytes())


def txt2img(webui: WebUI, prompt: str = "a cat", override: dict[str, Any] | None = None, **more: Any) -> int:
    """The checksum of a picture that the WebUI makes itself."""
    shape = {"steps": 1, "width": 64, "height": 64, "seed": 5, "sampler_name": "Euler", "prompt": prompt}
    quiet = {"override_settings": {"live_previews_enable": False, **(override or {})}}
    return checksum(ok(webui.post("/sdapi/v1/txt2img", {**shape, **quiet, **more}))["images"][0])


def hires(scale: float = 2) -> dict[str, Any]:
    """More arguments of `txt2img`: DFOSD in the middle."""
    wanted: dict[str, Any] = {
        "enable_hr": True,
        "hr_scale": scale,
        "hr_upscaler": "DFOSD x4",
        "denoising_strength": 0.5,
    }
    wanted["hr_additional_modules"] = ["Use same choices"]  # Forge fails without it; A1111 does not know it
    return wanted


def probed(
    webui: WebUI, choice: dict[str, str], shape: list[int] | None = None, **settings: Any
) -> tuple[dict[str, Any], torch.Tensor]:
    """The probe's facts about a run with `choice`, and the run's own floats."""
    body = {"shape": shape or SHAPE, "choice": choice, "settings": settings}
    answer = ok(webui.post("/dfosd-probe/upscale", body))
    return answer, torch.from_numpy(np.load(io.BytesIO(base64.b64decode(answer["npy"]))))


def state(webui: WebUI) -> dict[str, Any]:
    """What the probe sees in the host."""
    return ok(webui.post("/dfosd-probe/state", {}))


@contextmanager
def options(webui: WebUI, **values: Any) -> Iterator[None]:
    """Settings of the WebUI's, put back afterwards."""
    before = ok(webui.post("/dfosd-probe/options", {"names": list(values)}))
    ok(webui.post("/sdapi/v1/options", values))
    try:
        yield
    finally:
        ok(webui.post("/sdapi/v1/options", before))


def input_image(shape: list[int] | None = None) -> torch.Tensor:
    """What the probe upscales."""
    return torch.rand(shape or SHAPE, generator=torch.Generator().manual_seed(5))


def lora_of_the_test() -> str:
    """The LoRA in models/DFOSD for the host's checkpoint, or a skip."""
    name = os.environ.get("DFOSD_TEST_LORA")
    if not name:
        pytest.skip("DFOSD_TEST_LORA does not name a LoRA in models/DFOSD for the host's checkpoint.")
    return name


def shared_lora() -> dict[str, str]:
    """A choice that runs on the host's own checkpoint, or a skip."""
    return {"lora": lora_of_the_test()}


def reference(root: Path, name: str) -> torch.Tensor:
    """The same with our own networks; float32 is what the host computes in on its CPU."""
    return run_alone(next((root / "models" / "Stable-diffusion").glob("*.safetensors")), _lora(root, name))


def run_alone(base: Path, lora: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What our own networks make of `input_image()`, without a WebUI."""
    return upscale(input_image(), load_base(base, dtype), load_lora(lora), UpscaleSettings())


def _lora(root: Path, name: str) -> Path:
    return root / "models" / "DFOSD" / name


def assert_runs_base(webui: WebUI, choice: dict[str, str], base: Path) -> torch.Tensor:
    """That a run with `choice` gives what our own networks make on `base`. Returns the run's image.

    In float32 the same; in the format that is fast here, as near to float32 as theirs.
    """
    lora = _lora(webui.root, choice["lora"])
    exact = run_alone(base, lora)
    ok(webui.post("/dfosd-probe/number_format", {"name": "float32"}))
    try:
        answer, output = probed(webui, choice)
    finally:
        ok(webui.post("/dfosd-probe/number_format", {"name": ""}))
    assert (answer["host"], answer["base"], answer["dtype"]) == ("OwnHost", base.name, "torch.float32")
    assert (output - exact).abs().max() < 2e-3
    answer, fast = probed(webui, choice)
    assert (answer["host"], answer["base"]) == ("OwnHost", base.name)
    assert answer["weights_unchanged"]
    error = float((fast - exact).abs().mean())
    if answer["dtype"] != "torch.float32":
        # Another number of threads rounds otherwise, so the two are no nearer to each other than to float32.
        ours = float((run_alone(base, lora, fast_dtype("cpu")) - exact).abs().mean())
        print(answer["dtype"], "from float32:", error, "our own:", ours)  # noqa: T201
        assert error < 1.5 * ours
    return fast


def assert_embedded(output: torch.Tensor) -> None:
    """That it is what the embedded model makes of `input_image()`."""
    host, lora = load_default()
    difference = (output - upscale(input_image(), host, lora, UpscaleSettings())).abs()
    # Where the machine computes in bfloat16, another torch rounds differently.
    rounds = fast_dtype("cpu") != torch.float32
    assert difference.mean() < 2e-3 if rounds else difference.max() < 2e-3
