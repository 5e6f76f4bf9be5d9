from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from dfosd_core import images
from dfosd_core.settings import UpscaleSettings


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


def test_device_that_cannot_resize_has_it_done_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS before torch had it there; here the meta device stands for it."""
    x, real, made = torch.rand(1, 3, 6, 5), torch.nn.functional.interpolate, list[torch.Tensor]()

    def interpolate(x: Any, **options: Any) -> torch.Tensor:
        if not isinstance(x, torch.Tensor):
            raise NotImplementedError("The operator 'aten::_upsample_bicubic2d_aa.out' is not implemented")
        made.append(real(x, **options))
        return made[-1]

    expected = images.resize(x, (12, 10))
    monkeypatch.setattr(images.functional, "interpolate", interpolate)
    elsewhere: Any = SimpleNamespace(shape=x.shape, device=torch.device("meta"), cpu=lambda: x)
    result = images.resize(elsewhere, (12, 10))
    assert (result.shape, result.device.type) == (expected.shape, "meta")
    assert torch.equal(made[0], expected)
    with pytest.raises(NotImplementedError):
        images.resize(cast("Any", SimpleNamespace(shape=x.shape, device=torch.device("cpu"))), (12, 10))


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


def test_alpha_is_split_off() -> None:
    rgba = torch.rand(2, 4, 3, 3)
    rgb, alpha = images.split_alpha(rgba)
    assert alpha is not None
    assert torch.equal(torch.cat([rgb, alpha], 1), rgba)
    assert images.split_alpha(rgb)[1] is None


def test_writing_clamped_changes_layout_and_range() -> None:
    x, target = torch.randn(2, 3, 5, 4), torch.zeros(2, 5, 4, 4)
    images.put_clamped(target[..., :3], x)
    assert torch.equal(target[..., :3], images.to_bhwc(x).clamp(0, 1))
    assert not target[..., 3].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_number_anywhere_is_found(bad: float) -> None:
    image = torch.rand(1, 300, 4, 3)
    assert images.is_finite(image)
    image[0, 299, 3, 2] = bad
    assert not images.is_finite(image)


def test_enlarging_never_overshoots_and_never_changes_its_input() -> None:
    x = torch.tensor([-0.1, 0.0, 1.0, 1.1]).view(1, 1, 1, 4)
    for size in ((1, 4), (1, 16)):
        larger = images.enlarge(x, size)
        assert torch.equal(larger, images.resize(x, size).clamp(0, 1))
    assert x.min() < 0


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_placed_image_is_the_enlarged_one_cut_or_between_bars(fit: str) -> None:
    image = torch.rand(2, 20, 10, 3)
    placed = images.place(image, UpscaleSettings(width=40, height=40, fit=fit).placement(20, 10))
    scale = 4 if fit == "crop" else 2
    larger = images.to_bhwc(images.enlarge(images.to_bchw(image), (20 * scale, 10 * scale)))
    if fit == "crop":
        assert torch.equal(placed, larger[:, 20:60])
    else:
        assert torch.equal(placed[:, :, 10:30], larger)
        assert placed[:, :, :10].max() == placed[:, :, 30:].max() == 0


def test_hidden_colours_come_from_what_is_visible_near() -> None:
    """A red and a blue object on nothing, over hidden green."""
    rgb = torch.zeros(1, 3, 9, 21)
    rgb[:, 1] = 1.0
    alpha = torch.zeros(1, 1, 9, 21)
    for columns, channel in ((slice(2, 6), 0), (slice(15, 19), 2)):
        alpha[..., 3:7, columns] = 1.0
        rgb[..., 3:7, columns] = 0.0
        rgb[:, channel, 3:7, columns] = 0.75
    filled = images.fill_hidden(rgb, alpha)
    assert torch.equal(filled * alpha, rgb * alpha)
    assert filled[:, 1].max() < 1e-6
    torch.testing.assert_close(filled[0, :, 4, 1], torch.tensor([0.75, 0.0, 0.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(filled[0, :, 4, 20], torch.tensor([0.0, 0.0, 0.75]), rtol=0, atol=0.1)
    assert filled.sum(1).min() > 0.7
    nothing = images.fill_hidden(rgb, torch.zeros_like(alpha))
    assert torch.isfinite(nothing).all()


def test_faint_pixels_count_little_and_keep_their_colour() -> None:
    rgb, alpha = torch.rand(1, 3, 6, 6), torch.zeros(1, 1, 6, 6)
    alpha[..., 2, 2], alpha[..., 2, 3] = 1.0, 1e-3
    filled = images.fill_hidden(rgb, alpha)
    assert torch.equal(filled[..., 2, 2:4], rgb[..., 2, 2:4])
    torch.testing.assert_close(filled[..., 5, 5], rgb[..., 2, 2], rtol=0, atol=5e-3)


def test_grey_stays_grey_and_colours_stay_as_they_are() -> None:
    grey, coloured = torch.rand(1, 1, 4, 5).expand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    x = torch.rand(2, 3, 8, 10)
    kept = images.keep_grey(x.clone(), torch.cat([grey, coloured]))
    assert torch.equal(kept[0], x[0].mean(0, keepdim=True).expand(3, -1, -1))
    assert torch.equal(kept[1], x[1])
    assert torch.equal(images.keep_grey(x.clone(), coloured.expand(2, -1, -1, -1)), x)
