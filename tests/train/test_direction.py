from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dfosd_core.training.direction import direction_excess


def bars(period: float, degrees: float, size: int = 96) -> Tensor:
    """Bars of amplitude 1 along one direction."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    across = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    return torch.sin(across * (2 * math.pi / period)).expand(1, 3, -1, -1)


def grain(seed: int, size: int = 96) -> Tensor:
    return torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed)).expand(1, 3, -1, -1)


PICTURE = 0.5 + 0.05 * grain(0)


def test_a_picture_exceeds_nothing_of_its_own() -> None:
    assert direction_excess(PICTURE, PICTURE) == 0


@pytest.mark.parametrize("degrees", [0, 22.5, 45, 90, 120])
@pytest.mark.parametrize("period", [3.5, 5])
def test_bars_count_and_the_same_power_without_a_direction_does_not(period: float, degrees: float) -> None:
    woven = direction_excess(PICTURE + 0.05 * bars(period, degrees), PICTURE)
    grainy = direction_excess(PICTURE + 0.05 * math.sqrt(0.5) * grain(1), PICTURE)
    assert woven > 0.04
    assert grainy < 0.02 * woven


def test_bars_of_the_original_may_stay_and_detail_may_run_as_its_coarse_content_does() -> None:
    fine, coarse = 0.05 * bars(5, 30), 0.05 * bars(14, 30)
    assert direction_excess(0.5 + fine, 0.5 + fine) == 0
    assert direction_excess(0.5 + coarse + fine, 0.5 + coarse) == 0
    assert direction_excess(0.5 + coarse + fine, 0.5 + 0.05 * bars(14, 120)) > 0.2


def test_what_eight_bits_cannot_hold_has_no_direction() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert direction_excess(flat + 0.1 / 255 * bars(5, 0, 64), flat) == 0
    assert direction_excess(flat + 4 / 255 * bars(5, 0, 64), flat) > 0.1


def test_its_gradient_takes_the_bars_out() -> None:
    woven = (PICTURE + 0.05 * bars(5, 0)).requires_grad_()
    (gradient,) = torch.autograd.grad(direction_excess(woven, PICTURE), woven)
    assert (gradient * bars(5, 0)).sum() > 3 * (gradient * bars(5, 90)).sum().abs()


def test_it_is_the_sum_written_out() -> None:
    """One window of 32 pixels, with loops."""
    image, reference = (torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in (3, 4))
    image[..., ::5] = 0
    share, wanted = shares(image[0].mean(0).double().numpy()), shares(reference[0].mean(0).double().numpy())
    terms = [
        max(0.0, math.log(share[ring][k]) - math.log(max(wanted[ring][k], 1.3 * wanted[0][k], 1 / 8)) - 0.5)
        for ring in (1, 2)
        for k in range(8)
    ]
    assert direction_excess(image, reference).item() == pytest.approx(float(np.mean(terms)), rel=1e-4)


def shares(x: np.ndarray) -> list[list[float]]:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    window = np.outer(hann, hann)
    power = np.abs(np.fft.fft2((x - x.mean()) * window)) ** 2 / (window**2).sum()
    found = []
    for inner, outer in ((0.045, 0.11), (0.16, 0.23), (0.22, 0.32)):
        energy, weight = np.full(8, 1e-300), np.full(8, 1e-300)
        for v, fy in enumerate(np.fft.fftfreq(32)):
            for u, fx in enumerate(np.fft.fftfreq(32)):
                if not inner <= math.hypot(fy, fx) < outer:
                    continue
                position = math.atan2(fy, fx) % math.pi * 8 / math.pi
                lower = math.floor(position)
                for k, part in ((lower, 1 - position + lower), (lower + 1, position - lower)):
                    energy[k % 8] += part * power[v, u]
                    weight[k % 8] += part
        mean = energy / weight + (0.5 / 255) ** 2
        found.append(list(mean / mean.sum()))
    return found
