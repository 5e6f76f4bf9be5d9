"""The heads a diffusion discriminator can have: mid-block map (B, C, h, w) -> logits (B, 1, h', w').

The paper says "MLP" and no more; these are the three readings of it that public code of its group and their ancestor
support. No layer starts at zero: on a map of unit spread the logits start with a spread of about a half.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError

HeadKind = Literal["pointwise", "conv", "strided"]
Space = Literal["latent", "image"]
"""What a discriminator takes: noised latents, or images as they are."""


class Head(nn.Module):
    """A stack of convolutions that scores patches.

    kind: `pointwise`, an MLP on each cell (the paper's words): h' = h. `conv`, CODiff's two convolutions 4x4:
    h' = h - 2. `strided`, DMD2's head cut after its first stage: h' = h // 2, the 4x4 grid of the paper's figure.
    channels: of the map. rng draws the start.
    """

    def __init__(self, kind: HeadKind, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        self.kind = kind
        self.smallest_map = {"pointwise": 1, "conv": 3, "strided": 2}[kind]
        if kind == "pointwise":
            layers = [nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, 1, 1)]
        elif kind == "conv":
            wide = 2 * channels
            first, last = nn.Conv2d(channels, wide, 4, padding=1), nn.Conv2d(wide, 1, 4, padding=1)
            layers = [first, _group_norm(wide), nn.SiLU(), last]
        else:
            first, last = nn.Conv2d(channels, channels, 4, stride=2, padding=1), nn.Conv2d(channels, 1, 1)
            layers = [first, _group_norm(channels), nn.SiLU(), last]
        self.layers = nn.Sequential(*layers)
        start_convolutions(self.layers, rng)

    def forward(self, features: Tensor) -> Tensor:
        """Score (B, C, h, w). Raises ConfigError where the map is too small for this kind of head."""
        height, width = features.shape[-2:]
        if min(height, width) < self.smallest_map:
            raise ConfigError(
                f"discriminator.head '{self.kind}' needs a mid-block map of {self.smallest_map}x{self.smallest_map} or "
                f"more, found {height}x{width}. Train on larger crops, or choose the head 'pointwise'."
            )
        return self.layers(features)


def start_convolutions(network: nn.Module, rng: torch.Generator) -> None:
    """Draw every convolution's weights from N(0, 1 / fan-in), and set its bias to zero."""
    with torch.no_grad():
        for conv in network.modules():
            if isinstance(conv, nn.Conv2d):
                start = torch.randn(conv.weight.shape, generator=rng, device=rng.device)
                conv.weight.copy_(start * conv.weight[0].numel() ** -0.5)
                cast("Tensor", conv.bias).zero_()


def _group_norm(channels: int) -> nn.GroupNorm:
    # 32 groups, or as many of them as divide a small network's width.
    return nn.GroupNorm(math.gcd(32, channels), channels)
