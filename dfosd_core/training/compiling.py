"""torch.compile of the networks in training, whose convolutions may repeat the outermost values of their map."""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def compile_in_place(network: nn.Module) -> None:
    """Compile at the first call. Modules and names, and so checkpoints, stay as they are.

    Repeated borders are made of copies from now on. The compiler calls torch's own operation for the gradient of
    F.pad's "replicate", expects it in another memory format than that of channels-last maps, and gives up.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "replicate":
            cast("Any", layer)._conv_forward = MethodType(_conv_forward, layer)
    network.compile()


def _conv_forward(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In the place of the layer's own, through which `LoraLayer` runs it with another weight."""
    padding = cast("tuple[int, int]", layer.padding)
    return F.conv2d(repeated(x, padding), weight, bias, layer.stride, 0, layer.dilation, layer.groups)


def repeated(x: Tensor, padding: tuple[int, int]) -> Tensor:
    """(B, C, H, W) with its outermost values repeated: `padding` rows above and below, columns left and right."""
    for dim, count in zip((-2, -1), padding, strict=True):
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat((*[first] * count, x, *[last] * count), dim)
    return x
