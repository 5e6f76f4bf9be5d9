"""DISTS: structure and texture similarity of images (Ding et al. 2020, arXiv 2004.07728).

VGG16's convolutions are not part of this project; their file is given by path. alpha and beta lie beside this module
(from dists-pytorch 0.1, MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..tensor_files import TensorFileError, read_tensors
from .dists_ops import l2_pool, moments

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG16_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""torchvision's indices of the convolutions in `vgg16.features`, stage by stage; a ReLU follows each."""
VGG16_WIDTHS = (64, 128, 256, 512, 512)
CHANNELS = [3, *VGG16_WIDTHS]
"""Channels of the compared maps: the image itself, then the last ReLU of each stage. 1475 in all."""
EPSILON = 1e-6
"""The constants c1 = c2 of equations (5) and (6) of the DISTS paper."""
ALPHA_BETA = Path(__file__).with_name("dists_alpha_beta.safetensors")
"""The official alpha and beta, as the package dists-pytorch 0.1 has them (MIT)."""


class Dists(nn.Module):
    """DISTS as a loss: differentiable, no resizing, mean over the batch.

    vgg: state dict with `features.N.weight|bias` or `N.weight|bias` of VGG16's 13 convolutions.
    alpha, beta: (1, 1475, 1, 1); they are divided by their common sum.
    Raises ConfigError where a tensor is missing or of another shape.
    """

    mean: Tensor
    std: Tensor
    alpha: Tensor
    """(1475,), over the compared maps one after the other; so is beta."""
    beta: Tensor

    def __init__(self, vgg: Mapping[str, Tensor], alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        total = sum(CHANNELS)
        if alpha.numel() != total or beta.numel() != total:
            found = f"{alpha.numel()} and {beta.numel()}"
            raise ConfigError(f"DISTS needs alpha and beta of {total} values each, found {found}.")
        scale = 1 / (alpha.double().sum() + beta.double().sum())
        self.stages = nn.ModuleList(_stage(vgg, stage) for stage in range(len(VGG16_STAGES)))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("alpha", (alpha * scale).flatten().float(), persistent=False)
        self.register_buffer("beta", (beta * scale).flatten().float(), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_files(
        cls, vgg: str | Path, weights: str | Path | None = None, dtype: torch.dtype = torch.float32
    ) -> Dists:
        """Read VGG16's convolutions, and alpha and beta (`weights`; None: the published ones, which are shipped).

        Files are safetensors; `vgg` may also be torchvision's `vgg16-397923af.pth`.
        dtype: of the convolutions. bfloat16 makes training on a CPU several times faster; statistics stay float32.
        """
        path = ALPHA_BETA if weights is None else Path(weights)
        for file in (Path(vgg), path):
            if not file.is_file():
                raise ConfigError(f"DISTS needs the weights file '{file}', which does not exist.")
        tensors = _read(path)
        if not {"alpha", "beta"} <= set(tensors):
            raise ConfigError(f"'{path}' holds {sorted(tensors)[:4]}, expected 'alpha' and 'beta'.")
        dists = cls(_read(Path(vgg)), tensors["alpha"], tensors["beta"])
        cast("Any", dists.stages).to(dtype=dtype, memory_format=torch.channels_last)
        return dists

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the six compared maps of an image (B, 1|3, H, W) in [0, 1]; the first is the image itself."""
        dtype = next(self.stages.parameters()).dtype
        x = ((image - self.mean) / self.std).to(dtype, memory_format=torch.channels_last)
        maps = [image.expand(-1, 3, -1, -1)]
        for index, stage in enumerate(self.stages):
            if index:
                x = l2_pool(x)
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return DISTS of two batches (B, 1|3, H, W) in [0, 1] as a scalar: 0 for equal images."""
        score = image.new_zeros((), dtype=torch.float32)
        maps = self.features(image), self.features(reference)
        weights = (w.split(CHANNELS) for w in (self.alpha, self.beta))
        for x, y, alpha, beta in zip(*maps, *weights, strict=True):
            luminance, structure = _similarity(x, y)
            score = score + (luminance * alpha + structure * beta).sum(1).mean()
        return 1 - score


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        return read_tensors(path).tensors
    except TensorFileError as error:
        raise ConfigError(
            f"'{path}' is damaged or no weights file ({error.reason}). DISTS reads safetensors and torchvision's .pth."
        ) from error


def _stage(vgg: Mapping[str, Tensor], stage: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = VGG16_WIDTHS[stage]
    inputs = VGG16_WIDTHS[stage - 1] if stage else 3
    for index in VGG16_STAGES[stage]:
        conv = nn.Conv2d(inputs, width, 3, padding=1)
        for name, parameter in conv.named_parameters():
            value = vgg.get(f"features.{index}.{name}", vgg.get(f"{index}.{name}"))
            if value is None or value.shape != parameter.shape:
                found = "nothing" if value is None else f"shape {tuple(value.shape)}"
                wanted = f"'features.{index}.{name}' of shape {tuple(parameter.shape)}"
                raise ConfigError(f"VGG16 weights: expected {wanted}, found {found}.")
            parameter.data = value.float().clone()
        layers += [conv, nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers)


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Equations (5) and (6): similarity of means and of variations, each (B, C) float32."""
    mean_x, mean_y, variance_x, variance_y, covariance = moments(x, y)
    luminance = (2 * mean_x * mean_y + EPSILON) / (mean_x.square() + mean_y.square() + EPSILON)
    return luminance, (2 * covariance + EPSILON) / (variance_x + variance_y + EPSILON)
