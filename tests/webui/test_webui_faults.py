"""DFOSD inside running WebUIs when the host's own networks fail: out of memory, numbers that are none.

Files the host must have: see test_webui_hosts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from webui_calls import (
    SHARED,
    ok,
    options,
    picture,
    probed,
    shared_lora,
)
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = [1, 32, 64, 3]
"""128x256 pixels: two edges of the smallest tile."""


@pytest.fixture
def fault(webui: WebUI) -> Iterator[Callable[..., None]]:
    """Lets the networks of the host's checkpoint fail until the end of the test, or until "none"."""

    def begin(kind: str, **more: Any) -> None:
        ok(webui.post("/dfosd-probe/fault", {"kind": kind, **more}))

    yield begin
    begin("none")


def look(webui: WebUI) -> dict[str, Any]:
    return ok(webui.post("/dfosd-probe/look", {}))


def test_out_of_memory_halves_the_tiles(webui: WebUI, fault: Callable[..., None]) -> None:
    choice = shared_lora()
    _, asked_for = probed(webui, choice, SMALL, unet_tile=128, vae_tile=128)
    _, untiled = probed(webui, choice, SMALL)
    fault("memory", limit=16)
    answer, output = probed(webui, choice, SMALL)
    assert answer["host"] == SHARED[webui.name]
    assert webui.text().count("trying again with tiles of 16 latents") == 3
    assert torch.equal(output, asked_for)
    assert not torch.equal(output, untiled)
    assert output.shape == (1, 128, 256, 3)


def test_out_of_memory_at_every_size(webui: WebUI, fault: Callable[..., None]) -> None:
    choice = shared_lora()
    _, before = probed(webui, choice, SMALL)
    facts = look(webui)
    fault("memory", limit=8)
    status, content = webui.post("/dfosd/v1/upscale", {"image": picture(64, 32), **choice})
    assert status == 507
    assert "Out of memory, even with tiles of 16 latents. Free some memory" in content
    fault("none")
    assert look(webui) == facts
    assert facts["hooks"] == 0
    _, after = probed(webui, choice, SMALL)
    assert torch.equal(before, after)


def test_overflow_in_half_precision_goes_on_in_float32(webui: WebUI, fault: Callable[..., None]) -> None:
    choice = shared_lora()
    _, before = probed(webui, choice, SMALL)
    whole = look(webui)
    assert whole["dtypes"] == ["torch.float32"]
    fault("overflow")
    facts = look(webui)
    assert facts["dtypes"] == ["torch.bfloat16"]
    _, output = probed(webui, choice, SMALL)
    assert bool(torch.isfinite(output).all())
    # Not the same: the weights are rounded, the encoder works in bfloat16.
    assert 0 < (output - before).abs().mean() < 0.05
    assert look(webui) == facts
    fault("none")
    assert look(webui) == whole
    _, after = probed(webui, choice, SMALL)
    assert torch.equal(before, after)


def test_nan_is_an_error_and_no_black_image(webui: WebUI, fault: Callable[..., None]) -> None:
    choice = shared_lora()
    _, before = probed(webui, choice, SMALL)
    facts = look(webui)
    fault("nan")
    words = "The networks' output is not finite (NaN)"
    status, content = webui.post("/dfosd/v1/upscale", {"image": picture(64, 32), **choice})
    assert status == 500
    assert words in content
    with options(webui, dfosd_lora=choice["lora"]):
        body = {"image": picture(64, 32), "upscaling_resize": 4, "upscaler_1": "DFOSD x4"}
        status, content = webui.post("/sdapi/v1/extra-single-image", body)
    assert status == 500
    assert words in content
    fault("none")
    assert look(webui) == facts
    _, after = probed(webui, choice, SMALL)
    assert torch.equal(before, after)
