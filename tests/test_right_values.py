"""Pictures whose right result is known, through the embedded model: edges of transparency, greys, flat places."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_models import random_lora
from torch import Tensor

from dfosd_core.host import Host
from dfosd_core.hosts.own import load_base, load_default
from dfosd_core.image_files.picture import Picture, Samples
from dfosd_core.image_files.tensors import to_picture, to_tensor
from dfosd_core.images import resize
from dfosd_core.lora.file import DfosdLora
from dfosd_core.networks.embedded import DEFAULT_BASE, DEFAULT_WEIGHTS
from dfosd_core.networks.sd_configs import PADDING_KEY
from dfosd_core.pipeline import upscale
from train_tools.small_base import make_unet, make_vae, save_part

Model = tuple[Host, DfosdLora]
OBJECT = (0.85, 0.2, 0.1)
FLAT = {"black": (0, 0, 0), "white": (255, 255, 255), "blue": (0, 0, 255), "grey": (90, 90, 90)}


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load_default()


@pytest.fixture(scope="module")
def flat_true(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The small base's layout with repeated borders and random weights, and a random LoRA on it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    for network, name in ((make_unet(), "unet"), (make_vae(), "vae")):
        save_part(network.eval().requires_grad_(False), folder / name)
    host = load_base(folder)
    return host, random_lora(host)


def larger(picture: Picture, model: Model) -> Picture:
    return to_picture(upscale(to_tensor(picture), *model), like=picture)


def disc(hidden: tuple[float, float, float], *, soft: bool) -> Tensor:
    """(1, 24, 24, 4): a round object of one colour, and another colour where nobody sees it."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    alpha = (8.5 - (y - 11.5).hypot(x - 11.5)).clamp(0, 1)
    alpha = (alpha if soft else alpha.round())[..., None]
    colour = torch.where(alpha > 0, torch.tensor(OBJECT), torch.tensor(hidden))
    return torch.cat([colour, alpha], dim=2)[None]


def over_its_own_colour(image: Tensor) -> Tensor:
    """How far (1, h, w, 4) is from vanishing there, 0 to 255."""
    return ((image[..., :3] - torch.tensor(OBJECT)).abs() * image[..., 3:]).amax(3) * 255


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("hidden", [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0)])
def test_hidden_colours_do_not_show(embedded: Model, hidden: tuple[float, float, float], soft: bool) -> None:
    image = disc(hidden, soft=soft)
    result = upscale(image, *embedded)
    rgb, alpha = image[..., :3].movedim(-1, 1), image[..., 3:].movedim(-1, 1)
    size = (result.shape[1], result.shape[2])
    alpha_large = resize(alpha, size).clamp(0, 1)
    premultiplied = resize(rgb * alpha, size) / alpha_large.clamp(min=1e-6)
    bicubic = torch.cat([premultiplied.clamp(0, 1), alpha_large], dim=1).movedim(1, -1)
    edge = (result[..., 3] > 0) & (result[..., 3] < 1)
    assert over_its_own_colour(result).max() <= over_its_own_colour(bicubic).max()
    assert over_its_own_colour(result)[edge].mean() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_equal_channels_stay_equal(embedded: Model, kind: type[np.uint8 | np.uint16], channels: int) -> None:
    """Noise, and black letters on white."""
    rng, top = np.random.default_rng(0), np.iinfo(kind).max
    samples = rng.integers(0, top, (20, 24, 1), kind, endpoint=True).repeat(channels, axis=2)
    samples[:, 12:] = top
    samples[4:16, 15:17] = 0
    samples[..., 3:] = top // 2
    result = larger(Picture(samples=samples), embedded).samples[..., :3]
    assert (result == result[..., :1]).all()


def spread(picture: Picture, samples: Samples) -> int:
    """How far the result is from the one colour of the input, in its own levels."""
    return int(np.abs(picture.samples.astype(int) - samples[0, 0].astype(int)).max())


def flat(name: str, kind: type[np.uint8 | np.uint16], channels: int, edge: int) -> Samples:
    colour = np.array(FLAT[name], kind) * (np.iinfo(kind).max // 255)
    return np.tile(colour[:channels], (edge, edge + 9, 1)).astype(kind)


@pytest.mark.parametrize(("kind", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 3)])
@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("edge", [1, 23])
def test_flat_pictures_stay_flat(
    flat_true: Model, name: str, kind: type[np.uint8 | np.uint16], channels: int, edge: int
) -> None:
    samples = flat(name, kind, channels, edge)
    assert spread(larger(Picture(samples=samples), flat_true), samples) <= np.iinfo(kind).max // 255


@pytest.fixture(scope="module")
def next_embedded(embedded: Model) -> Model:
    """The embedded model, once its base repeats what is at the border."""
    files = [DEFAULT_WEIGHTS / DEFAULT_BASE / part / "config.json" for part in ("unet", "vae")]
    configs = [json.loads(file.read_text("utf-8")) for file in files]
    if any(config.get(PADDING_KEY) != "replicate" for config in configs):
        pytest.skip("the embedded base of today sees zeros beyond the border; this is for the next one")
    return embedded


@pytest.mark.parametrize("name", FLAT)
def test_flat_pictures_stay_flat_in_the_embedded_model(next_embedded: Model, name: str) -> None:
    samples = flat(name, np.uint8, 3, 32)
    assert spread(larger(Picture(samples=samples), next_embedded), samples) <= 1


def ramp() -> Samples:
    """From black to white, across."""
    return np.linspace(0, 255, 128).round().astype(np.uint8)[None, :, None].repeat(48, axis=0).repeat(3, axis=2)


def sky() -> Samples:
    """From blue to near white, downwards."""
    return np.linspace((70, 120, 200), (225, 235, 245), 96).round().astype(np.uint8)[:, None].repeat(120, axis=1)


@pytest.mark.parametrize(("make", "most"), [(ramp, 1), (sky, 2)])
def test_smooth_pictures_are_as_bicubic_has_them(next_embedded: Model, make: Callable[[], Samples], most: int) -> None:
    samples = make()
    result = larger(Picture(samples=samples), next_embedded)
    bicubic = Image.fromarray(samples).resize((result.size[1], result.size[0]), Image.Resampling.BICUBIC)
    assert np.abs(result.samples.astype(int) - np.asarray(bicubic).astype(int)).max() <= most
