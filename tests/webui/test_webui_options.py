"""The WebUI's settings page is drawn from UpscaleSettings, with two modules of the host in its place."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dfosd_core.settings import COLOR_FIX_NAMES, UpscaleSettings

PACK = "dfosd_webui_for_tests"
LIMITS = {name: field.metadata for name, field in UpscaleSettings.__dataclass_fields__.items()}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """options.py, and in its `shared.opts` what it has added."""
    added: dict[str, Any] = {}
    shared = SimpleNamespace(
        OptionInfo=lambda default, label, component, arguments, **_: (default, label, arguments),
        opts=SimpleNamespace(add_option=added.__setitem__, added=added),
    )
    modules = ModuleType("modules")
    vars(modules).update(shared=shared, paths=SimpleNamespace(), sd_models=SimpleNamespace())
    package = ModuleType(PACK)
    package.__path__ = [str(Path(__file__).parents[2])]
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, PACK, package)
    yield importlib.import_module(f"{PACK}.nodes.webui.options")
    for name in [name for name in sys.modules if name.partition(".")[0] == PACK]:
        del sys.modules[name]


def test_settings_have_their_own_limits_defaults_and_help(page: Any) -> None:
    page.add_options()
    added = page.shared.opts.added
    assert added["dfosd_color_fix"][2] == {"choices": list(COLOR_FIX_NAMES)}
    for name in ("strength", "unet_tile", "vae_tile"):
        default, label, arguments = added[f"dfosd_{name}"]
        assert arguments["maximum"] == LIMITS[name]["max"]
        assert label.startswith(LIMITS[name]["help"].split(";")[0].removesuffix("."))
        assert default == (1.0 if name == "strength" else page.AUTOMATIC_TILE)
    assert added["dfosd_unet_tile"][1].endswith("0: no tiles. -1: automatic")
    assert added["dfosd_unet_tile"][2] == {"minimum": -1, "maximum": 8192, "step": 1}


def test_untouched_page_gives_the_default_settings(page: Any) -> None:
    assert vars(page.upscaler_settings(4.0)) == vars(UpscaleSettings())


def test_what_is_set_on_the_page_is_used(page: Any) -> None:
    for name, value in {"color_fix": "lab", "strength": 0.5, "unet_tile": 8192.0, "vae_tile": 0}.items():
        setattr(page.shared.opts, f"dfosd_{name}", value)
    expected = UpscaleSettings(scale=2.0, color_fix="lab", strength=0.5, unet_tile=8192, vae_tile=0)
    assert vars(page.upscaler_settings(2.0)) == vars(expected)
