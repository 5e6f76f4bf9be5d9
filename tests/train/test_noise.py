"""Noise belongs to the sample: neither its place in a batch nor the batch's size changes it."""

from __future__ import annotations

import pytest
import torch

from dfosd_core.training.noise import SampleNoise, randint, randn

SHAPE = (4, 8, 8)


def test_noise_of_a_sample_depends_on_seed_and_index_alone() -> None:
    whole = SampleNoise.seeded(3, [5, 6, 7, 8])
    parts = [SampleNoise.seeded(3, [8, 5]), SampleNoise.seeded(3, [6])]
    for _ in range(2):
        expected = whole.randn((4, *SHAPE))
        first, second = parts[0].randn((2, *SHAPE)), parts[1].randn((1, *SHAPE))
        assert torch.equal(expected[[3, 0, 1]], torch.cat((first, second)))
        timesteps = whole.randint(0, 1000)
        assert timesteps[[3, 0, 1]].tolist() == [*parts[0].randint(0, 1000), *parts[1].randint(0, 1000)]


@pytest.mark.parametrize("other", [(0, 2), (1, 1), (2, 0)])
def test_other_seed_or_index_gives_other_noise(other: tuple[int, int]) -> None:
    one, two = (SampleNoise.seeded(seed, [index]).randn((1, 4096)) for seed, index in ((0, 1), other))
    assert abs(torch.corrcoef(torch.cat((one, two)))[0, 1]) < 0.06


def test_noise_is_normal_and_draws_in_turn_are_independent() -> None:
    noise = SampleNoise.seeded(0, range(64))
    first, second = noise.randn((64, 1024)), noise.randn((64, 1024))
    assert abs(first.mean()) < 0.02
    assert abs(first.std() - 1) < 0.02
    assert abs(torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack((first[:-1].flatten(), first[1:].flatten())))[0, 1]) < 0.02


def test_integers_fill_the_range_without_its_end() -> None:
    assert set(SampleNoise.seeded(0, range(200)).randint(3, 6).tolist()) == {3, 4, 5}


def test_one_row_for_each_sample_is_demanded() -> None:
    with pytest.raises(AssertionError, match="one row for each sample"):
        SampleNoise.seeded(0, [1, 2]).randn((3, 4))


def test_plain_generators_are_drawn_from_as_torch_does() -> None:
    ours, torchs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(randn(ours, (2, 3), "cpu"), torch.randn(2, 3, generator=torchs))
    assert torch.equal(randint(ours, 0, 9, 5, "cpu"), torch.randint(0, 9, (5,), generator=torchs))
