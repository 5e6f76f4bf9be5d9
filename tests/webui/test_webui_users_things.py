"""What the user has put on the loaded checkpoint: it must not act in DFOSD's pictures, and is back afterwards.

Files the host must have: see test_webui_hosts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from webui_calls import SHARED, hires, ok, options, probed, shared_lora, state, txt2img
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

HYPERNETWORK = "dfosd_probe"
FREEU = "FreeU Integrated (SD 1.x, SD 2.x, SDXL)"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """How a picture of the WebUI's is made with it."""

    asked: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Not as `override_settings`: A1111 forgets to put back what it has never saved."""
    missing: dict[str, str] = field(default_factory=dict)
    """Hosts that have none, and why."""

    def picture(self, webui: WebUI, **more: Any) -> int:
        with options(webui, **self.options):
            return txt2img(webui, **self.asked, **more)


THINGS = {
    "LoRA": Thing(asked={"prompt": "a cat <lora:user_lora:1>"}),
    "merged tokens": Thing(options={"token_merging_ratio": 0.5}),
    "hypernetwork": Thing(
        asked={"prompt": f"a cat <hypernet:{HYPERNETWORK}:1>"},
        missing=dict.fromkeys(("forge", "reforge"), "loads hypernetworks, and never applies one"),
    ),
    "exchanged UNet": Thing(
        options={"sd_unet": "dfosd-probe"},
        missing=dict.fromkeys(("forge", "reforge"), "knows the setting, and never applies it"),
    ),
    # It divides by the number of steps less one.
    "FreeU": Thing(
        asked={"alwayson_scripts": {FREEU: {"args": [True, 1.4, 1.6, 0.9, 0.2, 0.0, 1.0]}}, "steps": 2},
        missing={"a1111": "has no FreeU of its own", "reforge": "has another one, below"},
    ),
    "reForge's FreeU": Thing(
        asked={"alwayson_scripts": {"FreeU Integrated": {"args": [True, 1.4, 1.6, 0.9, 0.2]}}, "steps": 2},
        missing=dict.fromkeys(("a1111", "forge"), "has another one or none"),
    ),
}


@contextmanager
def hypernetwork_there(webui: WebUI) -> Iterator[None]:
    def written(keep: bool) -> bool:
        return ok(webui.post("/dfosd-probe/hypernetwork", {"name": HYPERNETWORK, "keep": keep}))["known"]

    assert written(True)
    try:
        yield
    finally:
        assert not written(False)


@pytest.mark.parametrize("name", list(THINGS))
def test_steps_aside_and_is_back(webui: WebUI, name: str) -> None:
    """DFOSD in the middle of a generation with it, and right after one, gives what it gives by itself."""
    thing = THINGS[name]
    choice = shared_lora()
    if webui.name in thing.missing:
        pytest.skip(f"{webui.name}: {thing.missing[webui.name]}.")
    if name == "hypernetwork":
        with hypernetwork_there(webui):
            check(webui, thing, choice)
    else:
        check(webui, thing, choice)


def check(webui: WebUI, thing: Thing, choice: dict[str, str]) -> None:
    without: dict[str, Any] = {"steps": thing.asked.get("steps", 1)}
    plain, before = txt2img(webui, **without), thing.picture(webui)
    assert before != plain
    with options(webui, dfosd_lora=choice["lora"]):
        ok(webui.post("/dfosd-probe/watch", {}))
        thing.picture(webui, **hires())
        _, on = probed(webui, choice)
        assert txt2img(webui, **without) == plain  # and with this the host has taken it off
        again = ok(webui.post("/dfosd-probe/again", {}))
        assert (again["difference"], again["host"]) == (0, SHARED[webui.name])
        assert ok(webui.post("/dfosd-probe/watch", {}))["runs"] == 1
    _, off = probed(webui, choice)
    assert torch.equal(on, off)
    assert thing.picture(webui) == before
    assert "base" not in state(webui)["kept"]  # all on the loaded checkpoint
