"""What needs no host: the door, the names of layers, and that nothing of ours stands in a host's way."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.webui.ldm_layers import ATTENTION_LEVELS, unet_facts, unet_layers
from dfosd_core.lora.names import kohya_table, ldm_unet_key
from dfosd_core.networks.sd_configs import unet_config
from dfosd_core.networks.unet import build_unet

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "scripts" / "dfosd_webui.py"


@pytest.mark.parametrize(
    "name",
    ["modules", "backend", "launch.py", "networks.py", "ldm", "annotator", "scripts/__init__.py"],
)
def test_nothing_shadows_a_hosts_module(name: str) -> None:
    """Forge leaves the checkout at the front of sys.path for good."""
    assert not (ROOT / name).exists()


def test_door_hands_on_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host registers every class it finds in the file."""
    ours = ModuleType("dfosd_webui_extension.nodes.webui.register")
    vars(ours)["register"] = lambda: Path
    monkeypatch.delitem(sys.modules, "dfosd_webui_extension", raising=False)
    monkeypatch.setitem(sys.modules, "dfosd_webui_extension.nodes", ModuleType("nodes"))
    monkeypatch.setitem(sys.modules, "dfosd_webui_extension.nodes.webui", ModuleType("webui"))
    monkeypatch.setitem(sys.modules, "dfosd_webui_extension.nodes.webui.register", ours)
    try:
        names = runpy.run_path(str(DOOR))
    finally:
        package = sys.modules.pop("dfosd_webui_extension")
    assert names["DfosdExtras"] is Path
    assert package.__path__ == [str(ROOT)]


def test_second_checkout_stays_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    first = ModuleType("dfosd_webui_extension")
    first.__path__ = ["/extensions/first"]
    monkeypatch.setitem(sys.modules, "dfosd_webui_extension", first)
    with caplog.at_level(logging.WARNING, "dfosd"):
        names = runpy.run_path(str(DOOR))
    assert "DfosdExtras" not in names
    assert "DFOSD is here twice: /extensions/first is used" in caplog.text


class Part(nn.Module):
    """A module of LDM's tree."""


def ldm_twin(unet: nn.Module) -> Part:
    """The same layers under LDM's names, as the WebUIs' UNets have them, with the facts these carry."""
    twin = Part()
    for name in kohya_table(unet).values():
        place = ldm_unet_key(f"{name}.weight", 2, ATTENTION_LEVELS[::-1]).removesuffix(".weight").split(".")
        module: nn.Module = twin
        for step in place[:-1]:
            if step not in dict(module.named_children()):
                module.add_module(step, Part())
            module = module.get_submodule(step)
        module.add_module(place[-1], unet.get_submodule(name))
    vars(twin).update(in_channels=4, out_channels=4, model_channels=32, channel_mult=[1, 2, 4, 4], num_classes=None)
    return twin


@pytest.mark.parametrize(("context", "is_linear"), [(1024, True), (768, False)])
def test_every_layer_of_the_unet_is_found_under_its_name(context: int, is_linear: bool) -> None:
    config = unet_config(block_out_channels=(32, 64, 128, 128), context_dim=context, linear_projection=is_linear)
    unet = build_unet(config, "test")
    found = unet_layers(ldm_twin(unet))
    assert found == {kohya: unet.get_submodule(name) for kohya, name in kohya_table(unet).items()}
    assert len(found) > 200


def test_facts_of_the_unet_are_read() -> None:
    unet = build_unet(unet_config(block_out_channels=(32, 64, 128, 128)), "test")
    assert unet_facts(ldm_twin(unet)) == {
        "context_dim": 1024,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64, 128, 128),
    }


@pytest.mark.parametrize("classes", [None, "sequential"])
def test_another_model_is_refused(classes: str | None) -> None:
    """No UNet at all, or SDXL's, which wants more than a text."""
    unet = build_unet(unet_config(block_out_channels=(32, 64, 128, 128)), "test")
    other = Part() if classes is None else ldm_twin(unet)
    vars(other)["num_classes"] = classes
    with pytest.raises(BaseModelMismatchError, match="no Stable Diffusion 1.x or 2.x. Choose"):
        unet_facts(other)
