from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dfosd_core import images


def test_layouts_are_inverse() -> None:
    image = torch.rand(2, 3, 5, 4)
    assert images.to_bchw(image).shape == (2, 4, 3, 5)
    assert torch.equal(images.to_bhwc(images.to_bchw(image)), image)


def test_ranges_are_inverse_and_unclamped() -> None:
    x = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5])
    assert images.to_signed(x).tolist() == [-2.0, -1.0, -0.5, 1.0, 2.0]
    assert torch.equal(images.to_unit(images.to_signed(x)), x)


@pytest.mark.parametrize("size", [(28, 20), (9, 31), (5, 3), (1, 1)])
def test_resize_equals_pillows_bicubic(size: tuple[int, int]) -> None:
    x = torch.rand(1, 1, 14, 10)
    ours = images.resize(x, size)[0, 0].numpy()
    pillow = Image.fromarray(x[0, 0].numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(ours, np.asarray(pillow), atol=2e-5)


def test_resize_overshoots_and_keeps_the_same_size_as_is() -> None:
    edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 1, 4)
    assert images.resize(edge, (1, 16)).max() > 1.0
    assert images.resize(edge, (1, 4)) is edge


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (16, 16), (15, 33)])
def test_padding_repeats_the_border_and_crop_undoes_it(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size)
    padded = images.pad_to_multiple(x, 16)
    assert all(edge % 16 == 0 for edge in padded.shape[-2:])
    assert torch.equal(images.crop(padded, size), x)
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])


def test_alpha_is_split_and_joined() -> None:
    rgba = torch.rand(2, 4, 3, 3)
    rgb, alpha = images.split_alpha(rgba)
    assert alpha is not None
    assert rgb.shape[1] == 3
    assert torch.equal(images.join_alpha(rgb, alpha), rgba)
    assert images.split_alpha(rgb)[1] is None
    assert images.join_alpha(rgb, None) is rgb
