"""Statistics gathered from parts of a map are those of the map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfosd_core.networks import moments
from dfosd_core.networks.moments import Moments
from dfosd_core.networks.norms import GroupNorm


def gathered(x: Tensor, heights: list[int]) -> Moments:
    found = Moments()
    for part in x.split(heights, dim=2):
        found.add(part)
    return found


@pytest.mark.parametrize("together", [2**18, 8 * 7])  # seven places at a time; a part may leave one over
@pytest.mark.parametrize("heights", [[30], [7, 22, 1]])
def test_parts_give_the_statistics_of_the_whole(
    heights: list[int], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "_TOGETHER", together)
    x = torch.randn(1, 8, 30, 11) * torch.rand(8, 1, 1) + 5 * torch.randn(8, 1, 1)
    mean, variance = gathered(x, heights).of_groups(4)
    groups = x.double().reshape(4, -1)
    torch.testing.assert_close(mean, groups.mean(1).repeat_interleave(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(variance, groups.var(1, correction=0).repeat_interleave(2), rtol=1e-6, atol=0)


def test_a_bright_map_that_hardly_changes_keeps_its_digits() -> None:
    x = (100 + 0.01 * torch.randn(1, 4, 40, 50, dtype=torch.float64)).float()
    expected = x.double().reshape(4, -1).var(1, correction=0)
    torch.testing.assert_close(gathered(x, [9, 31]).of_groups(4)[1], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite_is_seen(value: float) -> None:
    x = torch.randn(1, 4, 8, 8)
    assert gathered(x, [4, 4]).is_finite
    x[0, 3, 1, 2] = value
    assert not gathered(x, [4, 4]).is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_norm_that_knows_the_map_normalises_a_part_as_the_whole(dtype: torch.dtype) -> None:
    norm = GroupNorm(4, 8, 1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = (3 + torch.randn(1, 8, 20, 6)).to(dtype)
    expected = norm(x)[:, :, 5:9]
    with norm.knowing(*gathered(x, [11, 9]).of_groups(4)):
        found = norm(x[:, :, 5:9])
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * torch.finfo(dtype).eps * expected.abs().max().item())
    assert (norm(x[:, :, 5:9]) - expected).abs().max() > 0.05
