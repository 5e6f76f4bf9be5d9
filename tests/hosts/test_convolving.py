"""A residual block's halves give the same in fewer passes over the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfosd_core.networks import convolving
from dfosd_core.networks.borders import repeat_borders
from dfosd_core.networks.convolving import activated, activated_conv, activated_conv_in_float32
from dfosd_core.networks.norms import ChannelAffine, GroupNorm
from dfosd_core.networks.winograd import WinogradConv2d

CHANNELS = 8


def layers(norm: str, *, repeats: bool, dtype: torch.dtype) -> tuple[nn.Module, WinogradConv2d]:
    torch.manual_seed(3)
    made: dict[str, nn.Module] = {
        "affine": ChannelAffine(CHANNELS),
        "groups": GroupNorm(2, CHANNELS, 1e-5),
        "none": nn.Identity(),
    }
    conv = WinogradConv2d(CHANNELS, CHANNELS, 3, padding=1)
    if repeats:
        repeat_borders(conv)
    for parameter in made[norm].parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return made[norm].to(dtype), conv.to(dtype)


def maps(dtype: torch.dtype, batch: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(5)
    made = (torch.randn(batch, CHANNELS, 6, 5, generator=rng).to(dtype) for _ in range(2))
    return [each.contiguous(memory_format=torch.channels_last) for each in made]


def one_by_one(norm: nn.Module, x: Tensor, conv: nn.Conv2d, plus: Tensor | None) -> Tensor:
    """In float64."""
    h = F.silu(norm.double()(x.double()))
    h = F.pad(h, (1, 1, 1, 1), "replicate" if conv.padding_mode == "replicate" else "constant")
    assert conv.bias is not None
    y = F.conv2d(h, conv.weight.double(), conv.bias.double())
    return y if plus is None else y + plus.double()


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("norm", ["affine", "groups", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_it_equals_the_layers_one_by_one(norm: str, repeats: bool, sums: bool, dtype: torch.dtype) -> None:
    made, conv = layers(norm, repeats=repeats, dtype=dtype)
    x, other = maps(dtype)
    plus = other if sums else None
    found = activated_conv(made, x.clone(memory_format=torch.preserve_format), conv, plus=plus)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05  # bfloat16's step at 4 is 0.03
    torch.testing.assert_close(found.double(), one_by_one(made, x, conv, plus), rtol=0, atol=tolerance)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_what_it_is_given_stays(repeats: bool, dtype: torch.dtype) -> None:
    made, conv = layers("affine", repeats=repeats, dtype=dtype)
    x, plus = maps(dtype)
    kept = x.clone(), plus.clone()
    activated_conv(made, x, conv, plus=plus)
    assert torch.equal(x, kept[0])
    assert torch.equal(plus, kept[1])


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("norm", ["affine", "groups"])
@torch.inference_mode()
def test_the_last_convolution_has_finer_steps_than_bfloat16(norm: str, repeats: bool) -> None:
    made, conv = layers(norm, repeats=repeats, dtype=torch.bfloat16)
    x, _ = maps(torch.bfloat16)
    found = activated_conv_in_float32(made, x, conv)
    rounded = activated(made, x).float()  # all that is in bfloat16
    h = F.pad(rounded, (1, 1, 1, 1), "replicate" if repeats else "constant")
    assert conv.bias is not None
    expected = F.conv2d(h, conv.weight.float(), conv.bias.float())
    torch.testing.assert_close(found, expected, rtol=2**-16, atol=1e-6)
    torch.testing.assert_close(found.clamp(-1, 1), expected.clamp(-1, 1), rtol=0, atol=1e-5)  # a picture's range
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("size", [1, 6, 300])
@pytest.mark.parametrize("channels", [3, 24, 128])
@torch.inference_mode()
def test_affine_map_and_activation_in_one_are_rounded_once(channels: int, size: int) -> None:
    """Several sizes, as oneDNN has several ways."""
    norm = ChannelAffine(channels).to(torch.bfloat16)
    rng = torch.Generator().manual_seed(7)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -2, 2, generator=rng)
    x = torch.randn(2, channels, size, 7, generator=rng).to(torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    exact = F.silu(x.double() * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None])
    if not convolving._has_affine_silu():
        pytest.skip("this processor or torch has no such convolution in bfloat16")
    torch.testing.assert_close(activated(norm, x).double(), exact, rtol=2**-8, atol=1e-3)
    padded = convolving._activated_and_padded(norm, x, "replicate").double()
    torch.testing.assert_close(padded, F.pad(exact, (1, 1, 1, 1), "replicate"), rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize(("padding_mode", "as_torch_says"), [("zeros", "constant"), ("replicate", "replicate")])
@pytest.mark.parametrize("norm", ["affine", "groups", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_padding_goes_around_maps_of_any_size(
    norm: str, padding_mode: str, as_torch_says: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    made, _ = layers(norm, repeats=False, dtype=dtype)
    x = torch.randn(2, CHANNELS, *size).to(dtype).contiguous(memory_format=torch.channels_last)
    inside = activated(made, x.clone(memory_format=torch.preserve_format))
    padded = convolving._activated_and_padded(made, x, padding_mode)
    torch.testing.assert_close(padded, F.pad(inside, (1, 1, 1, 1), as_torch_says))  # but for the last digit


@pytest.mark.parametrize("sums", [False, True])
@torch.inference_mode()
def test_a_large_thin_map_is_padded_first_and_the_same(sums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where zeros are around it, and in bfloat16."""
    made, conv = layers("affine", repeats=False, dtype=torch.bfloat16)
    x, other = maps(torch.bfloat16)
    plus = other if sums else None
    sizes: list[torch.Size] = []
    convolving._has_fused_sum()  # which asks once, by a convolution of its own

    def noting(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(h: Tensor, *more: Any, **named: Any) -> Tensor:
            sizes.append(h.shape[2:])
            return compute(h, *more, **named)

        return noted

    monkeypatch.setattr(F, "conv2d", noting(F.conv2d))
    monkeypatch.setattr(convolving, "_summed", noting(convolving._summed))
    usual = activated_conv(made, x, conv, plus=plus), activated_conv_in_float32(made, x, conv)
    assert set(sizes) == {(6, 5)}
    sizes.clear()
    monkeypatch.setattr(convolving, "_LARGE_WIDTH", 5)
    padded = activated_conv(made, x, conv, plus=plus), activated_conv_in_float32(made, x, conv)
    assert set(sizes) == {(8, 7)}
    for found, expected in zip(padded, usual, strict=True):
        torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-2)


@torch.inference_mode()
def test_weights_in_place_of_the_convolutions_own_count() -> None:
    made, conv = layers("affine", repeats=True, dtype=torch.float32)
    x, _ = maps(torch.float32)
    weight, bias = conv.weight.clone() * 2, torch.ones(CHANNELS)
    found = activated_conv(made, x, conv, (weight, bias))
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    torch.testing.assert_close(found.double(), one_by_one(made, x, conv, None), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_without_the_fused_sum_the_result_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    made, conv = layers("affine", repeats=True, dtype=torch.bfloat16)
    x, plus = maps(torch.bfloat16)
    fused = activated_conv(made, x, conv, plus=plus)

    def gone(*_: object) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(convolving, "_summed", gone)
    convolving._has_fused_sum.cache_clear()
    try:
        plain = activated_conv(made, x, conv, plus=plus)
    finally:
        convolving._has_fused_sum.cache_clear()
    torch.testing.assert_close(plain, fused, rtol=0, atol=0.05)


def test_gradients_still_pass() -> None:
    made, conv = layers("affine", repeats=True, dtype=torch.float32)
    x, plus = maps(torch.float32)
    activated_conv(made, x.requires_grad_(), conv, plus=plus).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
