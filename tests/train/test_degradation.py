"""Real-ESRGAN's second-order degradation: shape, range, determinism, and that it does damage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.small_networks import rng
from torch import Tensor

from dfosd_core.images import resize
from dfosd_core.training.degradations import DEGRADATIONS
from dfosd_core.training.degradations.presets import HEAVY


def photo(batch: int = 2, height: int = 64, width: int = 48) -> Tensor:
    """Smooth colours with edges: (B, 3, H, W) in [0, 1]."""
    coarse = torch.rand(batch, 3, 6, 5, generator=rng())
    smooth = resize(coarse, (height, width)).clamp(0, 1)
    smooth[..., height // 2 :, width // 3] = 1
    return smooth


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("preset", DEGRADATIONS)
def test_output_is_a_quarter_and_eight_bit(preset: str) -> None:
    for seed in range(6):
        x_lq = DEGRADATIONS[preset](photo(), draws(seed))
        assert x_lq.shape == (2, 3, 16, 12)
        assert x_lq.dtype == torch.float32
        assert x_lq.min() >= 0
        assert x_lq.max() <= 1
        torch.testing.assert_close((x_lq * 255).round() / 255, x_lq, rtol=0, atol=1e-6)


@pytest.mark.parametrize("preset", DEGRADATIONS)
def test_same_seed_gives_the_same_image_and_another_does_not(preset: str) -> None:
    first, again, other = (DEGRADATIONS[preset](photo(), draws(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_image_of_a_batch_has_its_own_degradation() -> None:
    twice = photo(1).repeat(2, 1, 1, 1)
    x_lq = HEAVY(twice, draws(0))
    assert not torch.equal(x_lq[0], x_lq[1])


def test_input_is_left_alone() -> None:
    x_hr = photo()
    before = x_hr.clone()
    HEAVY(x_hr, draws(0))
    assert torch.equal(x_hr, before)


def test_heavy_does_more_damage_than_light_and_both_keep_the_picture() -> None:
    x_hr = photo(16)
    clean = resize(x_hr, (16, 12))
    error = {name: (degrade(x_hr, draws(0)) - clean).abs().mean() for name, degrade in DEGRADATIONS.items()}
    assert 0.005 < error["light"] < error["heavy"] < 0.2


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [4, 8, 32])
def test_flat_and_tiny_images_pass(value: float, size: int) -> None:
    for seed in range(4):
        x_lq = HEAVY(torch.full((1, 3, size, size), value), draws(seed))
        assert x_lq.shape == (1, 3, size // 4, size // 4)
        assert torch.isfinite(x_lq).all()


def test_size_that_no_quarter_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4, found 30x32"):
        HEAVY(torch.zeros(1, 3, 30, 32), draws(0))
