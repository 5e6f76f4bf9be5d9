"""DFOSD inside Forge Neo and SD.Next, whose checkpoints it does not share: what needs none, and a base of its own.

NEO_PATH and SDNEXT_PATH name an installed one each, with `venv/`. Its models/DFOSD has an SD 2.1-base, of random
weights if need be, and a DFOSD LoRA for it, named DFOSD_TEST_LORA there (the test of the base is skipped without it).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_webui_browser import page, test_tab_stops_in_the_middle, test_tab_upscales_compares_and_offers_the_result
from test_webui_hosts import (
    test_embedded_equals_the_standalone_host,
    test_route_says_what_is_wrong,
    test_route_upscales_with_alpha,
    test_route_wants_the_hosts_password,
    test_starts_without_a_complaint,
    test_upscaler_gives_the_exact_size,
)
from test_webui_same_picture import _one_thread, files, test_folder_in_extras, test_tab_and_route
from test_webui_stopped import test_route_is_stopped
from webui_calls import assert_runs_base, lora_of_the_test, picture, probed
from webui_process import FORKS, WebUI, installed_at

__all__ = [
    "_one_thread",
    "files",
    "page",
    "test_embedded_equals_the_standalone_host",
    "test_folder_in_extras",
    "test_route_is_stopped",
    "test_route_says_what_is_wrong",
    "test_route_upscales_with_alpha",
    "test_route_wants_the_hosts_password",
    "test_starts_without_a_complaint",
    "test_tab_and_route",
    "test_tab_stops_in_the_middle",
    "test_tab_upscales_compares_and_offers_the_result",
    "test_upscaler_gives_the_exact_size",
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module", params=list(FORKS))
def installed(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """In place of conftest.py's: the variable that names the fork, its folder."""
    return request.param, installed_at(request.param)


_PAGE = "has a page with other scripts, in which these tests do not find their way"
MISSING = {
    "test_route_wants_the_hosts_password": "has one password for its page and its API, and gets none here",
    "test_upscaler_gives_the_exact_size": "has a route that fails with every upscaler, as the next test shows",
    "test_folder_in_extras": "writes each result in its input's format, which the table of docs/formats.md leaves out",
    "test_tab_upscales_compares_and_offers_the_result": _PAGE,
    "test_tab_stops_in_the_middle": _PAGE,
}


@pytest.fixture(autouse=True)
def _is_there(request: pytest.FixtureRequest, installed: tuple[str, Path]) -> None:
    if installed[0] == "SDNEXT_PATH" and request.function.__name__ in MISSING:
        pytest.skip(f"SD.Next {MISSING[request.function.__name__]}.")


def test_sdnexts_extras_route_takes_no_upscaler(webui: WebUI) -> None:
    """If this fails, SD.Next has mended its route: take the entry out of MISSING, and out of docs/webui.md."""
    if webui.name != "sdnext":
        pytest.skip("About SD.Next only.")
    for name in ("Lanczos", "DFOSD x4"):
        body = {"image": picture(8, 8), "upscaling_resize": 2, "upscaler_1": name}
        status, content = webui.post("/sdapi/v1/extra-single-image", body)
        assert status == 500
        assert "html_info" in content


def test_base_in_our_folder(webui: WebUI) -> None:
    """By the automatic choice, and again: the base is kept."""
    name, folder = lora_of_the_test(), webui.root / "models" / "DFOSD"
    base = next(path for path in folder.glob("*.safetensors") if path.name != name)
    output = assert_runs_base(webui, {"lora": name}, base)
    assert torch.equal(probed(webui, {"lora": name})[1], output)
