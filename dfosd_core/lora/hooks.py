"""A LoRA that acts through forward hooks: no weight is written, so there is none to put back.

For networks that belong to another program, in whatever format it stores their weights. Costs two small products a
layer and call; `merge.merged` is faster where the weights are our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .file import DfosdLora, LoraPair
from .merge import check_fit


@contextmanager
def hooked(layers: Mapping[str, nn.Module], lora: DfosdLora, strength: float) -> Iterator[None]:
    """Let `lora`, times `strength`, act on `layers` inside the `with` block.

    layers: kohya name -> convolution or linear layer, for every layer there is. Raises LoraMismatchError, having
    changed nothing, when not all of the LoRA has a place. Strength 0 does nothing at all.
    """
    found = {(name, kind): getattr(layer, kind, None) for name, layer in layers.items() for kind in ("weight", "bias")}
    check_fit(lora, {place: parameter.shape for place, parameter in found.items() if parameter is not None})
    # In this order, as hooks run: a pair on a replaced weight was trained on top of it.
    hooks = [
        *((name, _OtherWeight(strength, value)) for name, value in lora.set_weights.items()),
        *((name, _OtherBias(strength, value)) for name, value in lora.set_biases.items()),
        *((name, _Addition(strength, pair)) for name, pair in lora.pairs.items()),
    ]
    with ExitStack() as stack:
        for name, hook in hooks if strength != 0 else ():
            stack.callback(layers[name].register_forward_hook(hook).remove)
        yield


class _Hook:
    """Tensors that follow the layer's input to its device and number format, and how much they count."""

    def __init__(self, strength: float, *tensors: Tensor) -> None:
        self._strength, self._tensors = strength, tensors

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """On the device and in the format of `x`; kept there, as the next tile comes from there, too."""
        if self._tensors[0].device != x.device or self._tensors[0].dtype != x.dtype:
            self._tensors = tuple(tensor.to(x.device, x.dtype) for tensor in self._tensors)
        return self._tensors


class _Addition(_Hook):
    """output + strength * alpha / rank * up(down(input))."""

    def __init__(self, strength: float, pair: LoraPair) -> None:
        super().__init__(strength, pair.down, pair.up.float() * (strength * pair.alpha / pair.rank))

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        down, up = self.like(inputs[0])
        inner = _product(layer, inputs[0], down)
        if isinstance(layer, nn.Conv2d):
            added = functional.conv2d(inner, up.reshape(*up.shape[:2], 1, 1))
        else:
            added = functional.linear(inner, up.flatten(1))
        return output + added.to(output.dtype)


class _OtherWeight(_Hook):
    """The output that the mixed weight (1 - strength) * own + strength * value gives."""

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (value,) = self.like(inputs[0])
        other = _product(layer, inputs[0], value).to(output.dtype)
        bias = cast("Tensor | None", layer.bias)
        if bias is not None:
            other = other + _on_channels(bias.to(output), other)
        return torch.lerp(output, other, self._strength)


class _OtherBias(_Hook):
    """The output that the mixed bias (1 - strength) * own + strength * value gives."""

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (value,) = self.like(output)
        own = cast("Tensor", layer.bias).to(output)
        return output + _on_channels(self._strength * (value - own), output)


def _product(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """`layer` with another weight and no bias: the convolution's stride and padding are its own."""
    if not isinstance(layer, nn.Conv2d):
        return functional.linear(x, weight.flatten(1))
    if weight.ndim == 2:
        weight = weight[..., None, None]
    # The module's own method knows its padding mode, which a host changes for pictures that tile.
    return layer._conv_forward(x, weight, None)  # pyright: ignore[reportPrivateUsage]


def _on_channels(values: Tensor, output: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1) if output.ndim == 4 else values
