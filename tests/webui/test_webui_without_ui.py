"""A WebUI that is a server only: --nowebui. Of DFOSD there are its route, its upscaler and its options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from webui_calls import EMBEDDED, ok, opened, picture
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(installed: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    with WebUI(*installed, tmp_path_factory.mktemp("server") / "host.log", ["--nowebui"]) as host:
        yield host


def test_starts_without_a_complaint(server: WebUI) -> None:
    lines = [line for line in server.said_at_start.splitlines() if "dfosd" in line.lower()]
    assert not [line for line in lines if "Error" in line or "Traceback" in line]


def test_route_upscales_and_wants_the_password(server: WebUI) -> None:
    body = {"image": picture(10, 6), **EMBEDDED, "settings": {"scale": 3}}
    assert opened(ok(server.post("/dfosd/v1/upscale", body))["image"]).size == (30, 18)
    assert server.post("/dfosd/v1/upscale", body, None)[0] == 401


def test_upscaler_is_there_once_and_works_with_the_options(server: WebUI) -> None:
    assert ok(server.post("/dfosd-probe/state", {}))["upscalers"].count("DFOSD x4") == 1
    body = {"image": picture(10, 6), "upscaling_resize": 2, "upscaler_1": "DFOSD x4"}
    assert opened(ok(server.post("/sdapi/v1/extra-single-image", body))["image"]).size == (20, 12)
