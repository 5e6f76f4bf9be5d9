"""Interrupt and Skip in the middle of DFOSD inside running WebUIs, and what the next run gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from webui_calls import EMBEDDED, checksum, hires, ok, opened, options, picture, txt2img
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TILES = {"dfosd_lora": EMBEDDED["lora"], "dfosd_unet_tile": 128, "dfosd_vae_tile": 128}


def standard_route(webui: WebUI, height: int = 96) -> tuple[int, Any]:
    body = {"image": picture(160, height), "upscaling_resize": 4, "upscaler_1": "DFOSD x4"}
    return webui.post("/sdapi/v1/extra-single-image", body)


def own_route(webui: WebUI, height: int = 96) -> tuple[int, Any]:
    settings = {"unet_tile": 128, "vae_tile": 128}
    return webui.post("/dfosd/v1/upscale", {"image": picture(160, height), **EMBEDDED, "settings": settings})


def stopped(webui: WebUI, run: Callable[[], Any], button: str) -> Any:
    """What `run` gives when `button` is pressed in its middle."""
    ok(webui.post("/dfosd-probe/watch", {}))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run)
        wait_for_progress(webui, answer)
        assert webui.post(f"/sdapi/v1/{button}", {})[0] in (200, 204)
        result = answer.result()
    ticks = ok(webui.post("/dfosd-probe/watch", {}))["ticks"]
    # It ends with the first tile that was finished after it.
    assert [tick["stop"] for tick in ticks] == [False] * (len(ticks) - 1) + [True]
    assert ticks[-1]["done"] < ticks[-1]["total"] - 10
    return result


def wait_for_progress(webui: WebUI, answer: Future[Any]) -> None:
    """Until the standard API shows some of our tiles."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert not answer.done(), answer.result()
        now = ok(webui.get("/sdapi/v1/progress?skip_current_image=true"))
        step, steps = now["state"]["sampling_step"], now["state"]["sampling_steps"]
        if (now["textinfo"] or "").startswith("DFOSD: ") and step >= 3:
            assert now["textinfo"].endswith(f"tile {step} of {steps}")
            assert 0 < now["progress"] < 1
            return
    raise AssertionError("The progress shows no tiles of DFOSD.")


def color_fix(webui: WebUI, name: str) -> None:
    ok(webui.post("/sdapi/v1/options", {"dfosd_color_fix": name}))


@pytest.mark.parametrize(("button", "height"), [("interrupt", 96), ("skip", 80)])
def test_upscaler_is_stopped_and_the_next_run_is_whole(webui: WebUI, button: str, height: int) -> None:
    """The host keeps results by image and upscaler: not a stopped run's, nor those of other options."""

    def run() -> tuple[int, Any]:
        return standard_route(webui, height)

    expected = checksum(ok(own_route(webui, height))["image"])
    with options(webui, **TILES):
        status, content = stopped(webui, run, button)
        if button == "interrupt":
            assert opened(content["image"]).size == (640, 4 * height)
            assert checksum(content["image"]) != expected
        else:
            assert status == 500  # the host leaves the image out, and then looks for it in its list
        assert checksum(ok(run())["image"]) == expected
        color_fix(webui, "none")
        assert checksum(ok(run())["image"]) != expected
        color_fix(webui, "wavelet")
        assert checksum(ok(run())["image"]) == expected
        ok(webui.post("/dfosd-probe/watch", {}))
        assert checksum(ok(run())["image"]) == expected
        assert ok(webui.post("/dfosd-probe/watch", {}))["runs"] == 0  # from what the host keeps


@pytest.mark.parametrize("button", ["interrupt", "skip"])
def test_route_is_stopped(webui: WebUI, button: str) -> None:
    before = ok(own_route(webui))["image"]
    status, content = stopped(webui, lambda: own_route(webui), button)
    assert status == 409
    assert "Interrupted." in content
    assert ok(own_route(webui))["image"] == before


def test_hires_fix_is_stopped(webui: WebUI) -> None:
    before = txt2img(webui)
    with options(webui, **TILES):
        whole = txt2img(webui, **hires())
        ok(webui.post("/sdapi/v1/options", {"dfosd_unet_tile": 64, "dfosd_vae_tile": 64}))
        stopped(webui, lambda: txt2img(webui, **hires(4)), "interrupt")
        ok(webui.post("/sdapi/v1/options", {"dfosd_unet_tile": 128, "dfosd_vae_tile": 128}))
        assert txt2img(webui, **hires()) == whole
    assert txt2img(webui) == before
