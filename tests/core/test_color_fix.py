from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.peak import Peak
from torch.nn import functional

from dfosd_core import color_fix
from dfosd_core.color_fix import COLOR_FIXES, adain, fix_color, lab, lab_to_rgb, low_pass, rgb_to_lab, wavelet
from dfosd_core.errors import ConfigError

SIZES = [(1, 1), (1, 40), (3, 2), (40, 300), (300, 65)]


@pytest.mark.parametrize("name", COLOR_FIXES)
@pytest.mark.parametrize("size", SIZES)
def test_fixing_an_image_by_itself_changes_nothing(name: str, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(fix_color(name, x.clone(), x), x, rtol=0, atol=2e-5 if name == "lab" else 0)


@pytest.mark.parametrize("name", COLOR_FIXES)
def test_images_of_a_batch_do_not_mix_and_the_result_takes_the_images_place(name: str) -> None:
    x_sr, x_lr = torch.rand(2, 3, 3, 20, 30).unbind()
    before, reference = x_sr.clone(), x_lr.clone()
    together = fix_color(name, x_sr, x_lr)
    for i in range(3):
        assert torch.equal(together[i : i + 1], fix_color(name, before[i : i + 1], x_lr[i : i + 1]))
    assert together is x_sr
    assert torch.equal(x_lr, reference)


@pytest.mark.parametrize("name", COLOR_FIXES)
def test_memory_layout_of_the_inputs_makes_no_difference(name: str) -> None:
    x_sr, x_lr = torch.rand(2, 2, 3, 20, 30).unbind()
    channels_last = x_sr.clone(memory_format=torch.channels_last)
    cropped = functional.pad(x_sr, (0, 5, 0, 5))[..., :20, :30]
    expected = fix_color(name, x_sr, x_lr)
    for other in (channels_last, cropped):  # sums in another order differ by rounding
        torch.testing.assert_close(fix_color(name, other, x_lr), expected, rtol=0, atol=1e-5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Where several share a tensor, what each begins and ends with is rounded in another way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rows", [255, 256, 257, 287, 512, 530, 800])
def test_bands_of_rows_give_the_whole_images_result(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x_sr, x_lr = torch.rand(2, 1, 3, rows, 9).unbind()
    in_bands = wavelet(x_sr.clone(), x_lr)
    monkeypatch.setattr(color_fix, "BAND_ROWS", 4096)
    assert torch.equal(in_bands, wavelet(x_sr, x_lr))


@pytest.mark.parametrize(("name", "most"), [("wavelet", 0.5), ("adain", 0.1)])
def test_a_large_image_is_never_copied_whole(name: str, most: float) -> None:
    fix_color(name, *torch.rand(2, 1, 3, 64, 64).unbind())  # torch's code comes into memory when it is first run
    x_sr, x_lr = torch.rand(2, 1, 3, 8192, 2048).unbind()
    peak = Peak()
    fix_color(name, x_sr, x_lr)
    assert peak.above() / (x_sr.numel() * 4) < most


@pytest.mark.parametrize("name", ["wavelet", "adain", "lab"])
def test_a_tint_is_taken_away(name: str) -> None:
    x_lr = torch.rand(1, 3, 64, 64) * 0.5 + 0.2
    tint = torch.tensor([0.1, -0.05, 0.02]).view(1, 3, 1, 1)
    fixed = fix_color(name, x_lr + tint, x_lr)
    assert (fixed - x_lr).abs().mean() < (0.02 if name == "lab" else 1e-6)


def test_none_returns_the_image_itself() -> None:
    x = torch.rand(1, 3, 4, 4)
    assert fix_color("none", x, torch.rand(1, 3, 4, 4)) is x


def test_unknown_name_is_refused() -> None:
    x = torch.rand(1, 3, 4, 4)
    with pytest.raises(ConfigError, match="Expected a colour fix of wavelet, adain, lab, none, found 'hsv'."):
        fix_color("hsv", x, x)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (70, 40)])
def test_low_pass_is_the_a_trous_convolution(size: tuple[int, int]) -> None:
    x = torch.rand(1, 1, *size)
    expected = x
    kernel = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))[None, None]
    for level in range(5):
        padded = functional.pad(expected, [2**level] * 4, mode="replicate")
        expected = functional.conv2d(padded, kernel, dilation=2**level)
    torch.testing.assert_close(low_pass(x), expected, rtol=0, atol=1e-6)


def test_wavelet_takes_the_references_low_band_and_keeps_the_details() -> None:
    x_sr, x_lr = torch.rand(1, 3, 256, 256), low_pass(torch.rand(1, 3, 256, 256)) + 0.1
    fixed = wavelet(x_sr.clone(), x_lr)
    expected = x_sr
    for _ in range(3):
        expected = expected - low_pass(expected) + low_pass(x_lr)
    inside = (..., slice(64, -64), slice(64, -64))  # at the borders a cell's mean is repeated instead of a pixel
    torch.testing.assert_close(fixed[inside], expected[inside], rtol=0, atol=4e-3)  # of noise of 0.29
    torch.testing.assert_close(low_pass(fixed).mean((2, 3)), low_pass(x_lr).mean((2, 3)), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [(4, 4), (40, 300), (516, 64)])
def test_wavelet_exchanges_the_low_band_of_the_cells_means_three_times(size: tuple[int, int]) -> None:
    x_sr, x_lr = torch.rand(2, 2, 3, *size).unbind()
    left = functional.avg_pool2d(x_lr - x_sr, 4)
    change = torch.zeros_like(left)
    for _ in range(3):
        change, left = change + low_pass(left, 3), left - low_pass(left, 3)
    expected = x_sr + functional.interpolate(change, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(wavelet(x_sr.clone(), x_lr), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("period", [8, 16, 32, 48, 64, 80, 112, 160, 240])
def test_wavelet_leaves_at_most_a_tenth_of_any_difference_in_the_low_band(period: int) -> None:
    wave = torch.sin(torch.arange(960) * (2 * torch.pi / period)).expand(1, 3, 8, -1)
    fixed = wavelet(wave.clone(), torch.zeros_like(wave))
    middle = slice(240, 720)
    assert low_pass(fixed)[..., middle].abs().max() < 0.11  # one exchange leaves a quarter at 64 to 80 pixels
    if period <= 16:
        torch.testing.assert_close(fixed[..., middle], wave[..., middle], rtol=0, atol=2e-3)


def test_adain_gives_the_references_mean_and_deviation() -> None:
    x_sr, x_lr = torch.rand(1, 3, 30, 40), torch.randn(1, 3, 30, 40)
    fixed = adain(x_sr, x_lr)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(fixed, (2, 3)), moment(x_lr, (2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adain", "lab"])
def test_flat_images_are_shifted_and_stay_finite(name: str) -> None:
    x_sr, x_lr = torch.full((1, 3, 8, 8), 0.3), torch.full((1, 3, 8, 8), 0.6)
    torch.testing.assert_close(fix_color(name, x_sr, x_lr), x_lr, rtol=0, atol=1e-5)


def test_lab_gives_the_references_mean_across_bands_of_rows() -> None:
    x_sr, x_lr = torch.rand(2, 1, 3, 600, 8).mul(0.3).add(0.3).unbind()
    fixed = lab(x_sr, x_lr * 0.9)
    ours, reference = rgb_to_lab(fixed[0]).mean((1, 2)), rgb_to_lab(x_lr[0] * 0.9).mean((1, 2))
    torch.testing.assert_close(ours, reference, rtol=0, atol=0.2)  # a few colours fall out of the gamut


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_has_the_published_values(rgb: tuple[float, ...], expected: tuple[float, ...]) -> None:
    color = torch.tensor(rgb).view(3, 1, 1)
    torch.testing.assert_close(rgb_to_lab(color).flatten(), torch.tensor(expected), rtol=0, atol=0.02)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(color)), color, rtol=0, atol=1e-4)
