"""The embedded small base's layout: our own networks are diffusers' on it, and its borders repeat what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dfosd_core.hosts.own import load_base
from dfosd_core.training.base import own_networks, read_training_base
from dfosd_core.training.generator import DfosdGenerator
from train_tools.small_base import CONTEXT_DIM, make_unet, make_vae, save_part

TOLERANCE = 1e-5


class Layout(NamedTuple):
    unet: Any
    vae: Any
    folder: Path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Random weights, rounded to float16 as in the files."""
    torch.manual_seed(0)
    unet, vae, folder = make_unet(), make_vae(), tmp_path_factory.mktemp("small_base")
    for network, name in ((unet, "unet"), (vae, "vae")):
        network.half().float().eval().requires_grad_(False)
        save_part(network, folder / name)
    return Layout(unet, vae, folder)


def flat(*colour: float) -> Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 48, 64)


def spread(x: Tensor) -> float:
    """How far values of a channel are apart at most."""
    return float((x.amax((-2, -1)) - x.amin((-2, -1))).max())


def test_the_files_are_the_network(base: Layout) -> None:
    host, training = load_base(base.folder), read_training_base(base.folder)
    x, prompt = torch.rand(1, 3, 48, 56) * 2 - 1, torch.randn(1, 8, CONTEXT_DIM)
    z = base.vae.encode(x).latent_dist.mean
    eps = base.unet(z, 199, prompt).sample
    image = base.vae.decode(z).sample
    assert eps.std() > 0.1
    assert image.std() > 0.01
    for unet, vae in (own_networks(base.unet, base.vae), own_networks(training.unet, training.vae)):
        torch.testing.assert_close(vae.encode(x), z, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(vae.decode(z), image, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(unet(z, 199, prompt), eps, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(host.encode(x), z, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(host.predict_eps(z, 199, prompt), eps, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("colour", [(-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (-1.0, -0.5, 1.0)])
def test_a_flat_picture_is_flat_up_to_its_border(base: Layout, colour: tuple[float, ...]) -> None:
    host = load_base(base.folder)
    z = host.encode(flat(*colour))
    eps = host.predict_eps(z, 199, torch.randn(1, 8, CONTEXT_DIM))
    image = host.decode(z + eps)
    assert [spread(each) < TOLERANCE for each in (z, eps, image)] == [True] * 3, [spread(z), spread(eps), spread(image)]


@pytest.mark.parametrize("rank", [4, 96])  # beside the layers, and merged into their weights
def test_so_is_what_a_lora_in_training_makes_of_it(base: Layout, rank: int) -> None:
    rng = torch.Generator().manual_seed(1)
    prompt = torch.randn(1, 8, CONTEXT_DIM)
    generator = DfosdGenerator(base.vae, base.unet, prompt_embeds=prompt, t=199, rank=rank, lora_alpha=rank, rng=rng)
    x = flat(0.3, -0.2, 0.9)
    with torch.no_grad():
        before, _ = generator(x)
        for parameter in generator.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.2 / rank**0.5)
        z_sr, x_sr = generator(x)
    assert (z_sr - before).abs().max() > 0.05
    assert spread(z_sr) < TOLERANCE
    assert spread(x_sr) < TOLERANCE
