"""What needs no host: the door, the names of layers, and that nothing of ours stands in a host's way."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.fakes.networks import LdmUnet
from torch import nn

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.hosts.webui.ldm_layers import unet_facts, unet_layers
from dfosd_core.lora.names import kohya_table
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


CONFIGS = {
    "sd2": unet_config(block_out_channels=(64, 128, 256, 256)),
    "sd1": unet_config(block_out_channels=(64, 128, 256, 256), context_dim=768, linear_projection=False),
    "two levels": unet_config(block_out_channels=(64, 64), layers_per_block=1, attention_levels=(True, True)),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_layer_of_the_unet_is_found_under_its_name(kind: str) -> None:
    unet = build_unet(CONFIGS[kind], "test")
    found = unet_layers(LdmUnet(unet, CONFIGS[kind]))
    assert found == {kohya: unet.get_submodule(name) for kohya, name in kohya_table(unet).items()}
    assert len(found) > (50 if kind == "two levels" else 200)


def test_facts_of_the_unet_are_read() -> None:
    unet = build_unet(CONFIGS["sd2"], "test")
    assert unet_facts(LdmUnet(unet, CONFIGS["sd2"])) == {
        "context_dim": 1024,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (64, 128, 256, 256),
    }


@pytest.mark.parametrize("classes", [None, "sequential"])
def test_another_model_is_refused(classes: str | None) -> None:
    """No UNet at all, or SDXL's, which wants more than a text."""
    unet = LdmUnet(build_unet(CONFIGS["sd2"], "test"), CONFIGS["sd2"])
    unet.num_classes = classes
    with pytest.raises(BaseModelMismatchError, match="no Stable Diffusion 1.x or 2.x. Choose"):
        unet_facts(nn.Module() if classes is None else unet)
