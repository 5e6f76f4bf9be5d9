"""The norms of our networks: GroupNorm or, in the embedded small base, one without statistics.

GroupNorm's statistics run over the whole map, so a tile is normalised differently from the image it was cut from
and tiled output differs from untiled output. The small base was therefore trained with each GroupNorm replaced by
the affine map it ends with, and does without self-attention, which sees the whole map. Its receptive field is finite,
and tiles with enough overlap give the untiled image. With group norms, only an autoencoder that goes through the map
layer by layer does (`streamed_vae.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MakeNorm = Callable[[int], nn.Module]
"""Channels -> the network's norm over them."""


def norms(groups: int, eps: float, local: bool) -> MakeNorm:
    """GroupNorms of `groups` groups or, for the embedded base, the affine maps that stand in for them."""
    return ChannelAffine if local else lambda channels: GroupNorm(groups, channels, eps)


class GroupNorm(nn.GroupNorm):
    """torch's, which can also normalise a part of a map by the whole map's statistics."""

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__(groups, channels, eps)
        self._known: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def knowing(self, mean: Tensor, variance: Tensor) -> Iterator[None]:
        """Inside the `with` block each channel has this mean and variance (C,), whatever the map looks like."""
        self._known = mean.float().to(self.weight.device), variance.float().to(self.weight.device)
        try:
            yield
        finally:
            self._known = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C, H, W) to the same."""
        if self._known is None:
            return super().forward(input)
        # With given statistics it is what a batch norm does after training: one pass, in float32 inside.
        return F.batch_norm(input, *self._known, self.weight.float(), self.bias.float(), eps=self.eps)


class ChannelAffine(nn.Module):
    """`y = x * weight + bias` per channel: GroupNorm's parameters, under GroupNorm's names, without its statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, ...) to the same shape and dtype."""
        weight, bias = self._along(x)
        return torch.addcmul(bias, x, weight)

    def into(self, out: Tensor, x: Tensor) -> None:
        """Write that to `out`, of the same shape and dtype."""
        weight, bias = self._along(x)
        torch.addcmul(bias, x, weight, out=out)

    def _along(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias as x has its channels."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return self.weight.to(x.dtype).view(shape), self.bias.to(x.dtype).view(shape)
