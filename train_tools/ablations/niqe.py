"""NIQE (Mittal, Soundararajan and Bovik 2013) with its model of pristine photographs fitted on the user's own.

The published model is of other photographs at another size, and its image-by-image distances need large pictures.
Here the model is fitted on held-out photographs, never on the one that is judged, and compared with that of all
results together. The numbers can be compared with each other only, not with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dfosd_core.images import resize

from .pictures import FOLDS, Result, levels, split

PATCH = 48
"""Edge of a patch in pixels, half of it at the second scale (published: 96); the next one begins half a patch on."""
SHARP = 0.6
"""Of a photograph's patches those count whose contrast is at least so much of its sharpest one's (published: 0.75)."""
FEATURES = 36
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Right, down, and the two diagonals."""


def niqe_distance(results: Sequence[Result]) -> float | None:
    """Distance of the results' statistics from the photographs', averaged over the folds; less is more natural.

    None where a fold has too few patches to fit the FEATURES by.
    """
    distances: list[float] = []
    for fold in range(FOLDS):
        learned, judged = split(results, fold)
        pristine = torch.cat([patch_features(result.x_hr, sharp=SHARP) for result in learned] or [torch.empty(0, 36)])
        found = torch.cat([patch_features(result.x_sr) for result in judged] or [torch.empty(0, 36)])
        if min(len(pristine), len(found)) <= FEATURES:
            return None
        distances.append(model_distance(pristine, found))
    return sum(distances) / len(distances)


def model_distance(pristine: Tensor, found: Tensor) -> float:
    """Of two Gaussian models, of features (N, F): sqrt(d^T ((S1 + S2) / 2)^-1 d), d the difference of means."""
    difference = pristine.mean(0) - found.mean(0)
    covariance = (torch.cov(pristine.T) + torch.cov(found.T)) / 2
    return float((difference @ torch.linalg.pinv(covariance) @ difference).clamp(min=0).sqrt())


def patch_features(image: Tensor, sharp: float = 0.0) -> Tensor:
    """(patches, 36) of (1, 3, H, W) in [0, 1]: 18 at each of two scales. `sharp`: see SHARP; 0 takes all patches."""
    grey = levels(image)[None, None]
    if min(grey.shape[-2:]) < PATCH:
        return torch.empty(0, FEATURES, dtype=grey.dtype)
    rows, columns = (edge // 2 * 2 for edge in grey.shape[-2:])
    grey = grey[..., :rows, :columns]
    half = resize(grey, (rows // 2, columns // 2))
    (fine, contrast), (coarse, _) = _patches(grey, PATCH), _patches(half, PATCH // 2)
    features = torch.cat([_statistics(fine), _statistics(coarse)], dim=1)
    return features[contrast >= sharp * contrast.max()]


def _patches(grey: Tensor, edge: int) -> tuple[Tensor, Tensor]:
    """Locally normalised patches (N, edge, edge), and their mean local deviation (N,)."""
    offsets = torch.arange(7, dtype=grey.dtype) - 3
    taps = torch.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2

    def local(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel)

    mean = local(grey)
    deviation = (local(grey * grey) - mean * mean).clamp(min=0).sqrt()
    normal = (grey - mean) / (deviation + 1)

    def cut(x: Tensor) -> Tensor:
        return x[0, 0].unfold(0, edge, edge // 2).unfold(1, edge, edge // 2).flatten(0, 1)

    return cut(normal), cut(deviation).mean((1, 2))


def _statistics(patches: Tensor) -> Tensor:
    """18 features (N, 18) of (N, edge, edge): of the values two, of the products with four neighbours four each."""
    alpha, left, right, _ = fit_aggd(patches.flatten(1))
    features = [alpha, (left + right) / 2]
    for shift in SHIFTS:
        alpha, left, right, mean = fit_aggd((patches * patches.roll(shift, (1, 2))).flatten(1))
        features += [alpha, mean, left, right]
    return torch.stack(features, dim=1)


def fit_aggd(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The asymmetric generalised Gaussian of each row of (N, n) by its moments (Lasmar et al. 2009).

    Returns the shape, the left and the right scale, and the mean, (N,) each.
    """
    left, right = (
        ((values.square() * side).sum(1) / side.sum(1).clamp(min=1)).sqrt().clamp(min=1e-6)
        for side in ((values < 0).to(values.dtype), (values > 0).to(values.dtype))
    )
    ratio = left / right
    moment = values.abs().mean(1).square() / values.square().mean(1).clamp(min=1e-12)
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, moments = _shapes()
    alpha = shapes[torch.searchsorted(moments, moment).clamp(max=len(shapes) - 1)]
    one, two, three = (torch.lgamma(k / alpha) for k in (1, 2, 3))
    scale = torch.exp((one - three) / 2)
    left, right = left * scale, right * scale
    return alpha, left, right, (right - left) * torch.exp(two - one)


@cache
def _shapes() -> tuple[Tensor, Tensor]:
    """Shapes 0.2 to 10, and each one's E|x|^2 / E x^2, which grows with it."""
    shapes = torch.arange(0.2, 10, 0.001, dtype=torch.float64)
    one, two, three = (torch.lgamma(k / shapes) for k in (1, 2, 3))
    return shapes, torch.exp(2 * two - one - three)
