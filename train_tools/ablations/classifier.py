"""A fresh real/fake classifier: how well a small CNN, trained after the fact, tells results from photographs.

It has never met the generator, so no generator was trained against it. Its crops come from some photographs, and it is
judged on others. Start, crops and steps are the same whatever is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pictures import FOLDS, Result, split

CROP = 32
"""Edge of the crops in pixels: small, so that the answer is texture and not content, and not always certain."""
BATCH = 16
"""Photographs' crops in a step, and as many of results, from the same places."""
STEPS = 300
LR = 2e-3
CONTRAST = 6.0
"""Brings crops in [0, 1] to a spread near 1."""
JUDGED_EACH = 64
"""At most so many crops are judged of a picture."""


def classifier_auc(results: Sequence[Result], steps: int = STEPS) -> float | None:
    """The classifier's area under the ROC curve on photographs it has not seen, averaged over the folds.

    0.5: it cannot tell results from photographs; 1: it always can. None where pictures are too few or too small.
    """
    smallest = min(min(result.x_hr.shape[-2:]) for result in results)
    if len(results) < 2 * FOLDS or smallest < CROP:
        return None
    return sum(_fold_auc(*split(results, fold), fold=fold, steps=steps) for fold in range(FOLDS)) / FOLDS


def _fold_auc(learned: Sequence[Result], judged: Sequence[Result], *, fold: int, steps: int) -> float:
    network = train_classifier(learned, seed=fold, steps=steps)
    with torch.no_grad():
        logits = [torch.cat([network(_grid(image)) for image in side]) for side in _sides(judged)]
    return auc(*logits)


def auc(real: Tensor, fake: Tensor) -> float:
    """The chance that one of `real` (N,) is larger than one of `fake` (M,); equal ones count as half."""
    difference = real.double()[:, None] - fake.double()[None, :]
    return float(((difference > 0).double() + (difference == 0).double() / 2).mean())


def train_classifier(results: Sequence[Result], *, seed: int, steps: int = STEPS) -> nn.Module:
    """A network of crops (B, 3, H, W) in [0, 1] to logits (B,): high means a photograph."""
    rng = np.random.default_rng(seed)
    network = _network(torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    real_images, fake_images = _sides(results)
    for _ in range(steps):
        places = [_place(real_images, rng) for _ in range(BATCH)]
        real, fake = (torch.cat([_crop(images, *place) for place in places]) for images in (real_images, fake_images))
        logits = network(torch.cat([real, fake]))
        loss = F.softplus(-logits[:BATCH]).mean() + F.softplus(logits[BATCH:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def _sides(results: Sequence[Result]) -> tuple[list[Tensor], list[Tensor]]:
    return [result.x_hr for result in results], [result.x_sr for result in results]


def _place(images: Sequence[Tensor], rng: np.random.Generator) -> tuple[int, int, int, bool]:
    """Picture, top, left, flipped."""
    picture = int(rng.integers(len(images)))
    height, width = images[picture].shape[-2:]
    top, left = int(rng.integers(height - CROP + 1)), int(rng.integers(width - CROP + 1))
    return picture, top, left, bool(rng.integers(2))


def _crop(images: Sequence[Tensor], picture: int, top: int, left: int, flipped: bool) -> Tensor:
    crop = images[picture][..., top : top + CROP, left : left + CROP]
    return crop.flip(-1) if flipped else crop


def _grid(image: Tensor) -> Tensor:
    """(N, 3, CROP, CROP): crops side by side, evenly chosen."""
    crops = image[0].unfold(1, CROP, CROP).unfold(2, CROP, CROP).flatten(1, 2).movedim(1, 0)
    chosen = np.linspace(0, len(crops) - 1, min(JUDGED_EACH, len(crops))).round().astype(int)
    return crops[torch.from_numpy(chosen)]


class _Texture(nn.Module):
    """Crops (B, 3, H, W) without their mean colours, and of a spread near 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((2, 3), keepdim=True)) * CONTRAST


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))


def _network(rng: torch.Generator) -> nn.Module:
    """Three convolutions and the mean of patch logits; no norms, so that a batch's two halves stay apart."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, 2, padding=1), nn.Conv2d(64, 64, 3, 2, padding=1)]
    last = nn.Conv2d(64, 1, 1)
    for conv in (*layers, last):
        with torch.no_grad():
            gain = (2 / conv.weight[0].numel()) ** 0.5
            conv.weight.copy_(torch.randn(conv.weight.shape, generator=rng) * gain)
            if conv.bias is not None:
                conv.bias.zero_()
    steps: list[nn.Module] = [_Texture()]
    for conv in layers:
        steps += [conv, nn.LeakyReLU(0.2)]
    return nn.Sequential(*steps, last, _Mean())
