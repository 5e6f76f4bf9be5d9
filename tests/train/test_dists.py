"""DISTS and EA-DISTS: against a plain numpy computation, on awkward images, and the Sobel facts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_networks import rng
from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.training.dists import Dists
from dfosd_core.training.dists_ops import l2_pool
from dfosd_core.training.ea_dists import EaDists, sobel

WIDTHS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
WIDTHS.update(dict.fromkeys((17, 19, 21, 24, 26, 28), 512))
COMPARED = (2, 7, 14, 21, 28)
Image = Callable[[], Tensor]


def random_vgg() -> dict[str, Tensor]:
    draws, inputs, tensors = rng(), 3, {}
    for index, width in WIDTHS.items():
        spread = (2 / (9 * inputs)) ** 0.5
        tensors[f"features.{index}.weight"] = torch.randn(width, inputs, 3, 3, generator=draws) * spread
        tensors[f"features.{index}.bias"] = torch.randn(width, generator=draws) * 0.1
        inputs = width
    return tensors


def random_weights() -> tuple[Tensor, Tensor]:
    alpha, beta = torch.rand(2, 1, 1475, 1, 1, generator=rng(1))
    return alpha, beta


@pytest.fixture(scope="module")
def vgg() -> dict[str, Tensor]:
    return random_vgg()


@pytest.fixture(scope="module")
def dists(vgg: dict[str, Tensor]) -> Dists:
    return Dists(vgg, *random_weights())


@pytest.fixture(scope="module")
def real_dists() -> Dists:
    path = os.environ.get("DFOSD_VGG16")
    if path is None:
        pytest.skip("DFOSD_VGG16 does not name a file with VGG16's convolutions; alpha and beta lie beside it")
    return Dists.from_files(path, Path(path).with_name("dists_alpha_beta.safetensors"))


def noise(seed: int, size: int = 24, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, size, size, generator=rng(seed))


def one_pixel() -> Tensor:
    image = torch.zeros(1, 3, 24, 24)
    image[:, :, 11, 7] = 1
    return image


AWKWARD: dict[str, Image] = {
    "black": lambda: torch.zeros(1, 3, 24, 24),
    "white": lambda: torch.ones(1, 3, 24, 24),
    "grey": lambda: torch.full((1, 3, 24, 24), 0.5),
    "one pixel": one_pixel,
    "noise": lambda: noise(0),
    "out of range": lambda: noise(0) * 6 - 3,
    "single": lambda: torch.full((1, 3, 1, 1), 0.5),
}


def naive_conv(x: np.ndarray, weight: np.ndarray, stride: int = 1) -> np.ndarray:
    """x (C, H, W), weight (O, C, 3, 3), zero padding 1."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], weight, optimize=True)


def naive_pool(x: np.ndarray) -> np.ndarray:
    hann = np.hanning(5)[1:-1]
    kernel = (np.outer(hann, hann) / np.outer(hann, hann).sum())[None, None]
    return np.sqrt(np.concatenate([naive_conv(c[None] ** 2, kernel, 2) for c in x]) + 1e-12)


def naive_maps(image: np.ndarray, vgg: dict[str, Tensor]) -> list[np.ndarray]:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (image - mean[:, None, None]) / std[:, None, None]
    maps = [image]
    for index in WIDTHS:
        if index in (5, 10, 17, 24):
            x = naive_pool(x)
        weight, bias = (vgg[f"features.{index}.{part}"].double().numpy() for part in ("weight", "bias"))
        x = np.maximum(naive_conv(x, weight) + bias[:, None, None], 0)
        if index in COMPARED:
            maps.append(x)
    return maps


def naive_dists(a: np.ndarray, b: np.ndarray, vgg: dict[str, Tensor], weights: tuple[Tensor, Tensor]) -> float:
    alpha, beta = (w.double().flatten().numpy() for w in weights)
    total, score, channel = alpha.sum() + beta.sum(), 0.0, 0
    for x, y in zip(naive_maps(a, vgg), naive_maps(b, vgg), strict=True):
        for p, q in zip(x, y, strict=True):
            mp, mq = p.mean(), q.mean()
            covariance = (p * q).mean() - mp * mq
            luminance = (2 * mp * mq + 1e-6) / (mp**2 + mq**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (p.var() + q.var() + 1e-6)
            score += (alpha[channel] * luminance + beta[channel] * structure) / total
            channel += 1
    return 1 - score


def naive_sobel(image: np.ndarray) -> np.ndarray:
    grey = np.tensordot(np.array([0.2989, 0.587, 0.114]), image, 1)
    padded = np.pad(grey, 1)
    out = np.empty_like(grey)
    for i, j in np.ndindex(*grey.shape):
        w = padded[i : i + 3, j : j + 3]
        gx = w[0, 2] + 2 * w[1, 2] + w[2, 2] - w[0, 0] - 2 * w[1, 0] - w[2, 0]
        gy = w[2, 0] + 2 * w[2, 1] + w[2, 2] - w[0, 0] - 2 * w[0, 1] - w[0, 2]
        out[i, j] = (gx**2 + gy**2 + 1e-6) ** 0.5
    return np.repeat(out[None], 3, 0)


def as_array(image: Tensor) -> np.ndarray:
    return image[0].double().numpy()


def test_dists_and_ea_dists_equal_a_plain_computation(dists: Dists, vgg: dict[str, Tensor]) -> None:
    a = noise(1)
    b = (a + 0.2 * noise(2)).clamp(0, 1)
    x, y = as_array(a), as_array(b)
    weights = random_weights()
    plain = naive_dists(x, y, vgg, weights)
    edges = naive_dists(naive_sobel(x), naive_sobel(y), vgg, weights)
    assert dists(a, b).item() == pytest.approx(plain, abs=1e-5)
    assert EaDists(dists)(a, b).item() == pytest.approx(plain + edges, abs=1e-5)
    assert plain > 1e-3


def test_dists_is_the_mean_over_the_batch(dists: Dists) -> None:
    a, b = torch.cat((noise(1), noise(2))), torch.cat((noise(3), noise(2) * 0.5))
    singles = [dists(a[i : i + 1], b[i : i + 1]).item() for i in range(2)]
    assert dists(a, b).item() == pytest.approx(sum(singles) / 2, abs=1e-6)
    assert singles[0] != pytest.approx(singles[1], abs=1e-4)


@pytest.mark.parametrize("name", AWKWARD)
def test_equal_images_have_no_distance(dists: Dists, name: str) -> None:
    image = AWKWARD[name]()
    assert abs(EaDists(dists)(image, image.clone()).item()) < 1e-5


@pytest.mark.parametrize("other", ["noise", "black"])
@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "single"])
def test_loss_and_gradient_are_finite_everywhere(dists: Dists, name: str, other: str) -> None:
    image = AWKWARD[name]().requires_grad_()
    loss = EaDists(dists)(image, AWKWARD[other]())
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > -1e-5
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    if name not in (other, "out of range"):
        assert loss > 1e-3
        assert image.grad.abs().max() > 0


def test_no_gradient_enters_the_vgg(dists: Dists) -> None:
    assert not any(parameter.requires_grad for parameter in dists.parameters())


def test_one_channel_equals_three(dists: Dists) -> None:
    a, b = noise(1, channels=1), noise(2, channels=1)
    expected = dists(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1))
    assert dists(a, b).item() == pytest.approx(expected.item(), abs=1e-6)


def test_pooling_kernel_is_the_papers() -> None:
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    pooled = [float(l2_pool(x[None, None])[0, 0, 1, 1]) for x in torch.eye(25).reshape(25, 5, 5)]
    torch.testing.assert_close(torch.tensor(pooled).reshape(5, 5)[1:4, 1:4], kernel.sqrt())


def test_sobel_of_a_step_is_four_and_of_flat_ground_is_a_thousandth() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1
    grey_of_white = 0.2989 + 0.587 + 0.114
    inner = sobel(image)[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(inner[:, 2:4], torch.full((6, 2), 4.0 * grey_of_white))
    torch.testing.assert_close(inner[:, :2], torch.full((6, 2), 0.001))
    torch.testing.assert_close(sobel(image.mT), sobel(image).mT)
    corner = sobel(torch.ones(1, 3, 8, 8))[0, 0, 0, 0].item()
    assert corner == pytest.approx(18**0.5 * grey_of_white, abs=1e-4)


def test_sobel_equals_a_plain_computation() -> None:
    image = noise(4, size=9)
    expected = torch.from_numpy(naive_sobel(as_array(image)))[:1].float()
    torch.testing.assert_close(sobel(image)[0], expected, rtol=1e-4, atol=1e-5)


def test_missing_files_and_tensors_are_named(tmp_path: Path, vgg: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"needs the weights file '.*vgg.safetensors', which does not exist"):
        Dists.from_files(tmp_path / "vgg.safetensors", tmp_path / "weights.safetensors")
    (tmp_path / "vgg.safetensors").touch()
    save_file({"gamma": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"holds \['gamma'\], expected 'alpha' and 'beta'"):
        Dists.from_files(tmp_path / "vgg.safetensors", tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="alpha and beta of 1475 values each, found 3 and 1475"):
        Dists(vgg, torch.ones(3), torch.ones(1475))
    without = {name: value for name, value in vgg.items() if name != "features.7.bias"}
    with pytest.raises(ConfigError, match=r"expected 'features.7.bias' of shape \(128,\), found nothing"):
        Dists(without, *random_weights())
    wrong = vgg | {"features.7.bias": torch.ones(5)}
    with pytest.raises(ConfigError, match=r"'features.7.bias' of shape \(128,\), found shape \(5,\)"):
        Dists(wrong, *random_weights())


def test_published_weights_sum_as_measured(real_dists: Dists) -> None:
    assert sum(w.sum().item() for w in real_dists.alpha) == pytest.approx(0.8760, abs=1e-4)
    assert sum(w.sum().item() for w in real_dists.beta) == pytest.approx(0.1240, abs=1e-4)


def test_real_dists_equals_a_plain_computation_and_ranks_damage(real_dists: Dists) -> None:
    path = Path(os.environ["DFOSD_VGG16"])
    vgg = {name: value.float() for name, value in load_file(path).items()}
    vgg = {f"features.{name.removeprefix('features.')}": value for name, value in vgg.items()}
    weights = load_file(path.with_name("dists_alpha_beta.safetensors"))
    image = torch.nn.functional.interpolate(noise(3, size=6), size=(24, 24), mode="bicubic").clamp(0, 1)
    slight, strong = ((image + s * (noise(4) - 0.5)).clamp(0, 1) for s in (0.1, 0.6))
    expected = naive_dists(as_array(image), as_array(slight), vgg, (weights["alpha"], weights["beta"]))
    assert real_dists(image, slight).item() == pytest.approx(expected, abs=1e-5)
    assert 0 < real_dists(image, slight) < real_dists(image, strong) < 1


def test_torchvision_file_and_shipped_weights_are_read(tmp_path: Path) -> None:
    vgg = random_vgg()
    torch.save(
        {**vgg, "classifier.0.bias": torch.zeros(1)},
        tmp_path / "vgg16.pth",
    )
    dists = Dists.from_files(tmp_path / "vgg16.pth")
    assert float(sum(w.sum() for w in dists.alpha)) == pytest.approx(0.8760, abs=1e-4)
    assert float(sum(w.sum() for w in dists.beta)) == pytest.approx(0.1240, abs=1e-4)


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.safetensors"])
def test_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match=f"'.*{name}' is damaged or no weights file .* DISTS reads safetensors and"):
        Dists.from_files(tmp_path / name)
