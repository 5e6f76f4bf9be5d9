"""Folded networks compute the same with fewer multiplications, and only while their constants hold."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from support.diffusers_host import own_twin
from support.tiny_models import random_lora, tiny_host
from test_networks import LAYOUTS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dfosd_core.hosts.own import OwnHost, load_default
from dfosd_core.lora.file import DfosdLora
from dfosd_core.networks.borders import repeat_borders
from dfosd_core.networks.complexity import sd21_models, sd21_report
from dfosd_core.networks.folding import folded, transposed_kernel, unfold
from dfosd_core.networks.layers import Upsample

TOLERANCE = 1e-5
"""Of values of about 1, in float32."""


def tiny(kind: str) -> tuple[OwnHost, DfosdLora]:
    if kind == "embedded":
        return load_default()
    theirs = tiny_host(**LAYOUTS[kind])
    return own_twin(theirs), random_lora(theirs)


def stages(host: OwnHost, t: int, prompt_embeds: Tensor, size: tuple[int, int]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(4)
    f, channels = host.layout.latent_factor, host.layout.latent_channels
    z = torch.randn(2, channels, *size, generator=rng)
    x = torch.rand(2, 3, *(f * edge for edge in size), generator=rng) * 2 - 1
    return [host.encode(x), host.predict_eps(z, t, prompt_embeds), host.decode(z)]


@pytest.mark.parametrize("size", [(16, 24), (14, 10)])  # the latter leaves odd maps on the way in three levels
@pytest.mark.parametrize("kind", [*LAYOUTS, "embedded"])
def test_folded_is_not_folded(kind: str, size: tuple[int, int]) -> None:
    host, lora = tiny(kind)
    t, prompt = lora.metadata.timestep, lora.prompt_embeds
    with host.lora(lora, 0.7):
        ours = stages(host, t, prompt, size)
        assert host.unet.folded_for is not None
        unfold(host.unet)
        unfold(host.vae)
        usual = stages(host, t, prompt, size)
    for found, expected in zip(ours, usual, strict=True):
        assert expected.std() > 0.05
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("change", ["timestep", "prompt"])
def test_other_constants_take_the_usual_way(change: str) -> None:
    host, lora = tiny("sd2")
    t, prompt = lora.metadata.timestep, lora.prompt_embeds
    other = (t - 100, prompt) if change == "timestep" else (t, prompt.flip(1) * 2)
    with host.lora(lora, 0.0):  # which changes no weight
        first, found = (stages(host, *constants, (16, 16))[1] for constants in ((t, prompt), other))
    expected = stages(host, *other, (16, 16))[1]
    assert (found - first).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_folded(fails: bool) -> None:
    host, lora = tiny("sd2")

    with suppress(KeyboardInterrupt), host.lora(lora, 1.0):
        assert any(getattr(layer, "folded", None) is not None for layer in host.unet.modules())
        if fails:
            raise KeyboardInterrupt
    layers = [layer for network in (host.unet, host.vae) for layer in network.modules() if hasattr(layer, "folded")]
    assert layers
    assert [layer.folded for layer in layers] == [None] * len(layers)
    assert host.unet.folded_for is None


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_a_doubled_map_and_its_convolution_are_one_transposed_convolution(padding: str) -> None:
    torch.manual_seed(0)
    layer = Upsample(5)
    if padding == "replicate":
        repeat_borders(layer)
    x = torch.randn(2, 5, 3, 4)
    expected = layer(x)
    layer.folded = transposed_kernel(layer.conv.weight.detach())
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=TOLERANCE)
    odd = layer(x, (5, 7))  # a skip of another size
    layer.folded = None
    assert torch.equal(odd, layer(x, (5, 7)))


def test_sd21_takes_what_the_report_says() -> None:
    """Counted by torch, whose rules differ from thop's alike in both."""
    report = sd21_report()
    assert f"{report.macs_folded / 1e9:.1f}" == "1906.3"
    unet, vae = sd21_models()
    z, prompt = torch.empty(1, 4, 64, 64, device="meta"), torch.empty(1, 77, 1024, device="meta")
    usual = counted(unet, vae, z, prompt)
    with folded(unet, vae, 399, prompt):
        assert usual - counted(unet, vae, z, prompt) == pytest.approx(report.folded_away, rel=1e-9)


def counted(unet: Any, vae: Any, z: Tensor, prompt: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert isinstance(unet, nn.Module)
        unet(z, 399, prompt)
        vae.decode(z)
    return counter.get_total_flops() // 2
