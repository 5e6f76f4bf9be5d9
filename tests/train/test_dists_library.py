"""EA-DISTS against a library: torchmetrics' DISTS, of images and of our Sobel maps, on the same weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.small_networks import rng
from test_dists import WIDTHS, random_vgg
from torch import Tensor, nn
from torch.nn import functional as F

from dfosd_core.training.dists import ALPHA_BETA, Dists
from dfosd_core.training.ea_dists import EaDists, sobel

library: Any = pytest.importorskip("torchmetrics.functional.image.dists", reason="torchmetrics is not installed")

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vgg() -> dict[str, Tensor]:
    return random_vgg()


def vgg16_features(vgg: Mapping[str, Tensor]) -> nn.Sequential:
    """`vgg16().features` as torchvision has it."""
    layers: list[nn.Module] = []
    inputs = 3
    for index in range(31):
        if index in WIDTHS:
            layers.append(nn.Conv2d(inputs, WIDTHS[index], 3, padding=1))
            inputs = WIDTHS[index]
        else:
            layers.append(nn.ReLU(inplace=True) if index - 1 in WIDTHS else nn.MaxPool2d(2, 2))
    features = nn.Sequential(*layers)
    features.load_state_dict({name.removeprefix("features."): value.float() for name, value in vgg.items()})
    return features


def library_dists(vgg: Mapping[str, Tensor]) -> Any:
    """The library's network with its own alpha and beta, on the given convolutions.

    It asks torchvision for those thirteen layers and for nothing else, so they are handed to it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_TORCHVISION_AVAILABLE", True)
        patch.setattr(library, "VGG16_Weights", SimpleNamespace(DEFAULT=None), raising=False)
        found = SimpleNamespace(features=vgg16_features(vgg))
        patch.setattr(library, "vgg16", lambda weights: found, raising=False)
        return library.DISTSNetwork()


def photographs(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two smooth images and worse ones, in [0, 1]."""
    coarse = torch.rand(2, 3, 9, 9, generator=rng())
    image = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return image, (image + 0.2 * torch.randn(image.shape, generator=rng(1))).clamp(0, 1)


def compare(ours: Dists, theirs: Any) -> None:
    image, worse = photographs(65, 59)
    edges = [sobel(x).expand_as(x) for x in (image, worse)]
    dists, of_edges = theirs(image, worse).mean().item(), theirs(*edges).mean().item()
    found = EaDists(ours)(image, worse).item()
    print(f"EA-DISTS {found:.7f}, the library {dists + of_edges:.7f}")  # noqa: T201
    assert ours(image, worse).item() == pytest.approx(dists, abs=TOLERANCE)
    assert found == pytest.approx(dists + of_edges, abs=TOLERANCE)
    assert min(dists, of_edges) > 0.01


def test_ea_dists_equals_the_librarys_on_random_convolutions(vgg: dict[str, Tensor]) -> None:
    weights = load_file(ALPHA_BETA)
    compare(Dists(vgg, weights["alpha"], weights["beta"]), library_dists(vgg))


def test_ea_dists_equals_the_librarys_on_vgg16() -> None:
    path = os.environ.get("DFOSD_VGG16")
    if path is None:
        pytest.skip("DFOSD_VGG16 does not name a file with VGG16's convolutions")
    compare(Dists.from_files(path), library_dists(load_file(path)))


def test_gradient_equals_the_librarys(vgg: dict[str, Tensor]) -> None:
    weights = load_file(ALPHA_BETA)
    # In float64, where no ReLU's input is so near zero that rounding decides.
    image, worse = (x.double() for x in photographs(41, 35))
    ours, theirs = Dists(vgg, weights["alpha"], weights["beta"]).double(), library_dists(vgg).double()

    def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
        x = image.clone().requires_grad_()
        return torch.autograd.grad(loss(x), x)[0]

    expected = gradient(lambda x: theirs(x, worse, require_grad=True).mean())
    difference = gradient(lambda x: ours(x, worse)) - expected
    assert difference.norm() < TOLERANCE * expected.norm()
    assert expected.abs().max() > 1e-4


def test_shipped_alpha_and_beta_are_the_librarys(vgg: dict[str, Tensor]) -> None:
    shipped, theirs = load_file(ALPHA_BETA), library_dists(vgg)
    assert torch.equal(shipped["alpha"], theirs.alpha)
    assert torch.equal(shipped["beta"], theirs.beta)
