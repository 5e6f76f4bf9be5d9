"""A plain CNN on images: the ablation's substitute for the NAD (arXiv 2410.04224, table "CNN (pixel space)")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .heads import Space, start_convolutions

WIDTHS = (64, 128, 256, 256)
SMALLEST = 24


class PixelDiscriminator(nn.Module):
    """A patch discriminator: 4x4 convolutions, each logit sees 70x70 pixels (Isola et al. 2017).

    No normalisation, so that a batch's or a map's statistics tell nothing. rng draws its start.
    """

    space: Space = "image"

    def __init__(self, *, rng: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for level, width in enumerate(WIDTHS):
            stride = 2 if level < len(WIDTHS) - 1 else 1
            layers += [nn.Conv2d(inputs, width, 4, stride, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(inputs, 1, 4, padding=1)
        start_convolutions(self, rng)

    def forward(self, x: Tensor, t_noise: Tensor) -> Tensor:
        """Return logits (B, 1, H/8 - 2, W/8 - 2), float32, of x (B, 3, H, W) in [-1, 1]; t_noise is not looked at.

        Raises ConfigError for images below 24 pixels.
        """
        if min(x.shape[-2:]) < SMALLEST:
            found = f"{x.shape[-2]}x{x.shape[-1]}"
            raise ConfigError(f"The pixel discriminator needs crops of {SMALLEST} pixels or more, found {found}.")
        features = self.layers(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.last(features.float())
