"""The 3x3 convolutions' shorter way gives what torch's convolution gives, and is taken where it may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfosd_core.networks import winograd
from dfosd_core.networks.borders import repeat_borders
from dfosd_core.networks.layers import Resnet
from dfosd_core.networks.norms import norms
from dfosd_core.networks.winograd import WinogradConv2d, conv3x3


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what went the shorter way."""
    shapes: list[tuple[int, ...]] = []

    def noted(x: Tensor, *rest: object) -> Tensor:
        shapes.append(tuple(x.shape))
        return conv3x3(x, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(winograd, "conv3x3", noted)
    return shapes


def layer(inputs: int, outputs: int, *, repeat: bool = False) -> WinogradConv2d:
    torch.manual_seed(0)
    conv = WinogradConv2d(inputs, outputs, 3, padding=1)
    if repeat:
        repeat_borders(nn.Sequential(conv))
    return conv


@pytest.mark.parametrize("repeat", [False, True], ids=["zeros", "repeated"])
@pytest.mark.parametrize("size", [(64, 64), (65, 67), (1, 4099), (4098, 2), (70, 63)], ids=str)
def test_it_is_the_convolution(size: tuple[int, int], repeat: bool, counted: list[tuple[int, ...]]) -> None:
    conv = layer(256, 320, repeat=repeat)
    x = torch.randn(2, 256, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = conv(x), conv.double()(x.double())
    assert counted == [(1, 256, *size)] * 2
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 3e-5


def test_without_bias_and_in_any_memory_order() -> None:
    rng = torch.Generator().manual_seed(2)
    x, weight = torch.randn(1, 8, 17, 22, generator=rng), torch.randn(5, 8, 3, 3, generator=rng)
    for order in (torch.contiguous_format, torch.channels_last):
        found = conv3x3(x.to(memory_format=order), weight.to(memory_format=order), None)
        assert torch.allclose(found, nn.functional.conv2d(x, weight, padding=1), atol=2e-4)


@pytest.mark.parametrize(
    ("conv", "x", "grad"),
    [
        (layer(256, 256).bfloat16(), torch.randn(1, 256, 64, 64).bfloat16(), False),
        (layer(256, 256).double(), torch.randn(1, 256, 64, 64).double(), False),
        (layer(256, 255), torch.randn(1, 256, 64, 64), False),
        (layer(256, 256), torch.randn(1, 256, 63, 64), False),
        (layer(256, 256), torch.randn(1, 256, 64, 64), True),
        (WinogradConv2d(256, 256, 1), torch.randn(1, 256, 64, 64), False),
        (WinogradConv2d(256, 256, 3), torch.randn(1, 256, 66, 66), False),
        (WinogradConv2d(256, 256, 3, stride=2, padding=1), torch.randn(1, 256, 64, 64), False),
        (WinogradConv2d(256, 256, 3, padding=1, groups=2), torch.randn(1, 256, 64, 64), False),
    ],
    ids=[
        "bfloat16",
        "float64",
        "few channels",
        "small map",
        "with gradients",
        "1x1",
        "no padding",
        "stride 2",
        "groups",
    ],
)
def test_elsewhere_it_is_torch_s_own(
    conv: WinogradConv2d, x: Tensor, grad: bool, counted: list[tuple[int, ...]]
) -> None:
    with torch.set_grad_enabled(grad):
        found = conv(x)
        expected = nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups)
    assert not counted
    assert torch.equal(found, expected)


def test_the_networks_blocks_take_it(counted: list[tuple[int, ...]]) -> None:
    block = Resnet(256, 256, norms(32, 1e-6, local=False))
    with torch.no_grad():
        block(torch.randn(1, 256, 64, 80))
    assert counted == [(1, 256, 64, 80)] * 2
