"""Real-ESRGAN's second-order degradation: shape, range, determinism, each operation, and their order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.small_networks import rng
from torch import Tensor
from torch.nn import functional as F

from dfosd_core.images import resize
from dfosd_core.training.degradations import DEGRADATIONS
from dfosd_core.training.degradations.blur_kernels import Blur, Sharpening, Sinc
from dfosd_core.training.degradations.operations import Noise, compressed, filtered, noisy, resized
from dfosd_core.training.degradations.presets import CAMERA, HEAVY
from dfosd_core.training.degradations.real_esrgan import Draw, RoundDraw


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


def test_sinc_kernel_is_centred_and_the_formula() -> None:
    """Against torch's Bessel function; a kernel off its centre would move the picture."""
    for size in (7, 13, 21):
        for cutoff in (math.pi / 5, 1.9, math.pi):
            kernel = Sinc(size=size, cutoff=cutoff).kernel()
            assert kernel.sum() == pytest.approx(1)
            assert np.unravel_index(kernel.argmax(), kernel.shape) == (size // 2, size // 2)
            for same in (kernel[::-1], kernel[:, ::-1], kernel.T):
                np.testing.assert_allclose(kernel, same, atol=1e-12)
            r = torch.arange(1, size // 2 + 1, dtype=torch.float64)
            expected = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r) / (cutoff**2 / (4 * math.pi))
            centre = size // 2
            np.testing.assert_allclose(kernel[centre, centre + 1 :] / kernel[centre, centre], expected, atol=1e-6)


@pytest.mark.parametrize("shape", ["gaussian", "generalized", "plateau"])
def test_blur_kernel_is_centred_and_as_wide_as_it_says(shape: str) -> None:
    blur = Blur(shape=shape, size=21, sigma_x=2.5, sigma_y=0.8, theta=0.0, beta=1.0)
    kernel = blur.kernel()
    assert kernel.sum() == pytest.approx(1)
    assert np.unravel_index(kernel.argmax(), kernel.shape) == (10, 10)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(kernel[10].sum() > kernel[:, 10].sum(), True)  # theta 0: along the rows
    turned = replace(blur, theta=math.pi / 2).kernel()
    np.testing.assert_allclose(turned, kernel.T, atol=1e-12)
    if shape == "gaussian":
        x = np.arange(21) - 10
        assert (kernel.sum(0) * x**2).sum() ** 0.5 == pytest.approx(2.5, rel=1e-3)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("shape", ["generalized", "plateau"])
def test_exponent_of_a_blur_is_that_of_the_published_formulas(shape: str, beta: float) -> None:
    """Real-ESRGAN, section 3.1: exp(-1/2 (C^T S^-1 C)^beta), and 1 / (1 + (C^T S^-1 C)^beta) for a plateau."""
    kernel = Blur(shape=shape, size=21, sigma_x=2.5, sigma_y=1.5, theta=0.0, beta=beta).kernel()
    steps = np.arange(11)
    for line, sigma in ((kernel[10, 10:], 2.5), (kernel[10:, 10], 1.5)):
        distance = (steps / sigma) ** (2 * beta)
        expected = 1 / (1 + distance) if shape == "plateau" else np.exp(-distance / 2)
        np.testing.assert_allclose(line / line[0], expected, rtol=1e-9)


@pytest.mark.parametrize(("height", "width", "size"), [(40, 37, 21), (23, 61, 7), (8, 8, 21), (1, 3, 9)])
def test_filter_is_a_correlation_with_mirrored_borders(height: int, width: int, size: int) -> None:
    x = torch.rand(1, 3, height, width, generator=rng())
    kernel = np.random.default_rng(3).random((size, size))  # nothing symmetrical, so that a turned one is noticed
    pad = size // 2
    padded = F.pad(x, (pad,) * 4, mode="reflect" if min(height, width) > pad else "replicate").double()
    expected = F.conv2d(padded, torch.from_numpy(kernel).expand(3, 1, size, size), groups=3)
    torch.testing.assert_close(filtered(x, kernel), expected.float(), rtol=1e-5, atol=1e-5 * kernel.sum())


def quiet(quality: int = 100, factor: float = 1.0) -> RoundDraw:
    """A round that does next to nothing."""
    noise = Noise(is_gaussian=True, strength=0.0, is_grey=False)
    return RoundDraw(blur=None, factor=factor, mode="bicubic", noise=noise, jpeg_quality=quality)


@pytest.mark.parametrize("jpeg_last", [True, False])
def test_last_filter_comes_after_the_resize_and_beside_the_jpeg(jpeg_last: bool) -> None:
    """Resize and filter are one, the JPEG before or after both; everything else is neutral here."""
    x_hr, sinc = photo(1, 256, 256), Sinc(size=15, cutoff=math.pi / 3)
    draw = Draw(
        first=quiet(), second=quiet(40, factor=0.4), final_mode="bilinear", final_filter=sinc, jpeg_last=jpeg_last
    )
    x = resized(compressed(x_hr, 100), (25, 25), "bicubic").clamp(0, 1)
    if jpeg_last:
        expected = compressed(filtered(resized(x, (64, 64), "bilinear"), sinc.kernel()), 40)
    else:
        expected = filtered(resized(compressed(x, 40), (64, 64), "bilinear"), sinc.kernel())
    torch.testing.assert_close(HEAVY.apply(x_hr, draw, draws(0)), expected.clamp(0, 1), rtol=0, atol=0.6 / 255)
    before = resized(filtered(x, sinc.kernel()), (64, 64), "bilinear")
    assert (HEAVY.apply(x_hr, draw, draws(0)) - before).abs().max() > 5 / 255, "the order shows on this picture"


def test_jpeg_quality_is_the_rounds_own() -> None:
    """The two rounds' limits are not swapped, nor the ends of a range, and a low quality does more damage."""
    rough, fine = replace(HEAVY.first, jpeg_quality=(30, 40)), replace(HEAVY.second, jpeg_quality=(90, 95))
    both = [replace(HEAVY, first=rough, second=fine).draw(draws(k)) for k in range(40)]
    assert all(30 <= d.first.jpeg_quality <= 40 and 90 <= d.second.jpeg_quality <= 95 for d in both)
    for name in ("jpeg_quality", "blur_sigma", "resize", "gaussian_sigma", "poisson_scale"):
        with pytest.raises(ValueError, match=f"Expected {name} from small to large, found 9 and 2"):
            replace(HEAVY.first, **{name: (9, 2)})
    x = photo(1, 64, 64)
    error = [(compressed(x, quality) - x).abs().mean() for quality in (95, 60, 30)]
    assert error[0] < error[1] < error[2]
    x_hr = photo(1, 256, 256)
    for a, b in ((8, 100), (100, 8)):
        draw = Draw(first=quiet(a), second=quiet(b), final_mode="bicubic", final_filter=None, jpeg_last=True)
        expected = compressed(resized(compressed(x_hr, a), (64, 64), "bicubic"), b)
        torch.testing.assert_close(HEAVY.apply(x_hr, draw, draws(0)), expected, rtol=0, atol=1e-6)


def test_shot_noise_has_the_variance_of_its_photons() -> None:
    """Light and strength; a picture of few levels has few photons unless their number is given."""
    x = torch.full((1, 3, 200, 200), 128 / 255)
    for levels, expected in ((256, 256), (None, 1)):
        noise = Noise(is_gaussian=False, strength=0.1, is_grey=False, levels=levels)
        found = noisy(x, noise, draws(0)) - x
        assert found.std().item() == pytest.approx(0.1 * (128 / 255 / expected) ** 0.5, rel=0.03)
    grey = noisy(photo(1), Noise(is_gaussian=False, strength=0.2, is_grey=True), draws(0)) - photo(1)
    inside = (noisy(photo(1), Noise(is_gaussian=False, strength=0.2, is_grey=True), draws(0)) % 1 > 0).all(1)
    assert (grey[:, 0] - grey[:, 1])[inside].abs().max() < 1e-6


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.299), (1, 0.587), (2, 0.114)])
def test_grey_shot_noise_has_the_photons_of_the_luma(channel: int, weight: float) -> None:
    """By the weights of ITU-R BT.601."""
    x = torch.full((1, 3, 200, 200), 0.25)
    x[:, channel] = 0.75
    noise = Noise(is_gaussian=False, strength=0.1, is_grey=True, levels=256)
    found = (noisy(x, noise, draws(0)) - x)[:, channel]
    assert found.std().item() == pytest.approx(0.1 * ((0.25 + 0.5 * weight) / 256) ** 0.5, rel=0.03)


def test_gaussian_noise_has_its_deviation() -> None:
    x = torch.full((1, 3, 200, 200), 0.5)
    for is_grey in (False, True):
        found = noisy(x, Noise(is_gaussian=True, strength=20, is_grey=is_grey), draws(0)) - x
        assert found.std().item() == pytest.approx(20 / 255, rel=0.02)
        assert torch.equal(found[:, 0], found[:, 1]) is is_grey


def test_camera_is_as_quiet_in_the_sky_as_elsewhere() -> None:
    sky = torch.full((1, 3, 128, 128), 0.6) + torch.linspace(0, 0.01, 128)
    x_lq = torch.cat([CAMERA(sky, draws(seed)) for seed in range(30)])
    assert (x_lq - x_lq.mean((2, 3), keepdim=True)).std() < 4 / 255


def test_sharpening_is_unsharp_masking() -> None:
    """A flat area stays, an edge gets brighter and darker beside it by the amount, and amount 0 does nothing."""
    x = torch.zeros(1, 3, 32, 32)
    x[..., 16:] = 0.5
    x += 0.25
    one, two = (filtered(x, Sharpening(amount=amount, sigma=1.0).kernel()) for amount in (0.5, 1.0))
    assert torch.allclose(filtered(x, Sharpening(amount=0, sigma=1.0).kernel()), x, atol=1e-6)
    assert torch.allclose(one[..., :8], x[..., :8], atol=1e-5)
    over = one[0, 0, 16].max().item() - 0.75
    assert over == pytest.approx(0.25 - one[0, 0, 16].min().item(), abs=1e-5)
    # The first bright column: half of the step times the Gaussian's weight beyond the edge.
    weights = np.exp(-0.5 * np.arange(-6, 7) ** 2.0)
    assert over == pytest.approx(0.5 * 0.5 * float((weights[:6]).sum() / weights.sum()), abs=1e-4)
    torch.testing.assert_close(two - x, 2 * (one - x), rtol=0, atol=1e-5)


def test_camera_sharpens_and_the_others_do_not() -> None:
    drawn = [CAMERA.draw(draws(k)).final_filter for k in range(300)]
    amounts = [f.amount for f in drawn if isinstance(f, Sharpening)]
    assert len(amounts) == 300
    low, high = CAMERA.final_sharpening or (0, 0)
    assert min(amounts) < low + 0.05 < high - 0.05 < max(amounts)
    assert not any(isinstance(HEAVY.draw(draws(k)).final_filter, Sharpening) for k in range(50))
