"""The parts of the node pack that need no ComfyUI: widgets from settings, the mosaic of tiles."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import fields
from types import ModuleType

import pytest
import torch
from comfy_process import ROOT
from torch import Tensor

from dfosd_core.settings import UpscaleSettings
from dfosd_core.sizes import Placement
from dfosd_core.tiles.run import FinishedTile

PACK = "dfosd_pack_for_tests"


@pytest.fixture(scope="module")
def pack() -> Iterator[ModuleType]:
    """The checkout as a package of some name, as ComfyUI has it, without running its `__init__`."""
    package = ModuleType(PACK)
    package.__path__ = [str(ROOT)]
    sys.modules[PACK] = package
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == PACK]:
        del sys.modules[name]


@pytest.fixture
def inputs(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.nodes.comfy.inputs")


@pytest.fixture
def preview(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.dfosd_core.mosaic")


def test_widgets_are_the_settings_in_their_order_with_their_help(inputs: ModuleType) -> None:
    widgets = inputs.settings_inputs() | inputs.settings_inputs(*inputs.LATER)
    assert sorted(widgets) == sorted(field.name for field in fields(UpscaleSettings))
    for field in fields(UpscaleSettings):
        assert widgets[field.name][1]["tooltip"].startswith(field.metadata["help"].removesuffix("Default: automatic."))
    assert widgets["vae_tile"][1]["tooltip"].endswith("0: no tiles. -1: automatic.")
    assert widgets["long_edge"][1]["tooltip"].endswith("instead of a scale. 0: not given.")


def test_untouched_widgets_mean_the_default_settings(inputs: ModuleType) -> None:
    widgets = inputs.settings_inputs() | inputs.settings_inputs(*inputs.LATER)
    values = {name: options["default"] for name, (_, options) in widgets.items()}
    assert vars(inputs.settings_from(values)) == vars(UpscaleSettings())


def test_no_tiles_and_automatic_tiles_are_told_apart(inputs: ModuleType) -> None:
    assert inputs.settings_from({"unet_tile": 0, "vae_tile": -1, "image": None}).unet_tile == 0
    assert inputs.settings_from({"unet_tile": 0, "vae_tile": -1, "image": None}).vae_tile is None


def test_every_value_in_a_widgets_limits_can_be_reached_on_the_page(inputs: ModuleType) -> None:
    """The page rounds whole numbers to steps counted from the least value."""
    for kind, options in inputs.settings_inputs().values():
        if kind == "INT":
            assert options["step"] == 1
        if kind == "FLOAT":
            assert options["round"] < options["step"]


def test_mosaic_shows_the_input_and_then_the_finished_tiles(preview: ModuleType) -> None:
    images = torch.zeros(2, 100, 200, 4)
    mosaic = preview.Mosaic(images, Placement((1000, 2000), (1000, 2000)))
    picture = mosaic.start(0)
    assert picture.size == (512, 256)
    assert picture.mode == "RGB"
    assert picture.getextrema() == ((0, 0),) * 3

    def tile(image: int, left: int) -> FinishedTile:
        values = torch.full((1, 3, 1000, 1000), 2.0)  # beyond the range: cut off
        return FinishedTile(image=image, top=0, left=left, size=(1000, 2000), values=values)

    half = mosaic.paste(tile(0, 1000))
    assert half.getpixel((255, 128)) == (0, 0, 0)
    assert half.getpixel((256, 128)) == (255, 255, 255)
    assert mosaic.paste(tile(0, 0)).getextrema() == ((255, 255),) * 3
    assert mosaic.start(1).getextrema() == ((0, 0),) * 3


def test_mosaic_of_a_padded_image_has_tiles_between_its_bars(preview: ModuleType) -> None:
    mosaic = preview.Mosaic(torch.full((1, 50, 50, 3), 0.2), Placement((200, 200), (200, 400)))
    values = torch.ones(1, 3, 100, 200)
    picture = mosaic.paste(FinishedTile(image=0, top=100, left=0, size=(200, 200), values=values))
    assert picture.size == (400, 200)
    assert [picture.getpixel((x, 150))[0] for x in (99, 100, 299, 300)] == [0, 255, 255, 0]
    assert [picture.getpixel((x, 50))[0] for x in (99, 100, 299, 300)] == [0, 51, 51, 0]


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (700, 500)])
def test_mosaic_of_any_size_takes_tiles_of_any_size(preview: ModuleType, size: tuple[int, int]) -> None:
    mosaic = preview.Mosaic(torch.rand(1, 1, 2, 3), Placement(size, size))
    for left in range(0, size[1], 173):
        width = min(173, size[1] - left)
        values: Tensor = torch.rand(1, 3, size[0], width)
        picture = mosaic.paste(FinishedTile(image=0, top=0, left=left, size=size, values=values))
        assert max(picture.size) <= preview.PREVIEW_PX
