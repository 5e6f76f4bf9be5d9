"""Merging a LoRA into networks and taking it out again, bit for bit.

delta W = strength * alpha / rank * up @ down, in float32, added in float32, then cast to the weight's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..errors import LoraMismatchError
from .changes import LoraChanges, LoraPair
from .file import DfosdLora
from .names import kohya_table

Place = tuple[str, str]
"""kohya layer name, and "weight" or "bias"."""

_merged_now: WeakSet[nn.Module] = WeakSet()


def delta_weight(
    pair: LoraPair, strength: float, shape: torch.Size, device: torch.device | str | None = None
) -> Tensor:
    """The float32 change of a weight of `shape` (out, in) or (out, in, kh, kw), on `device`; None: the pair's."""
    up, down = (factor.to(device, torch.float32).flatten(1) for factor in (pair.up, pair.down))
    # The small factor is scaled, not the product, which is as large as the weight.
    return (up * (strength * pair.scaling) @ down).reshape(shape)


@contextmanager
def merged(
    networks: Mapping[str, nn.Module], lora: DfosdLora, strength: float, *, restores: bool = True
) -> Iterator[None]:
    """Add `lora`, times `strength`, to the weights of `networks` inside the `with` block.

    networks: the UNet under `UNET_PREFIX` and, where the LoRA has layers there, the VAE under `VAE_PREFIX`, with
    diffusers' module names. Afterwards (success, error or interruption) every weight is bit for bit as before. Strength
    0 changes nothing at all. Raises LoraMismatchError before the first change when a layer has no place or a wrong
    shape, and when a LoRA is already merged into one of the networks.

    restores: False where the networks are never used again without this LoRA. Then no copy of the weights is held, they
    stay changed, and no other LoRA is taken.
    """
    changes = _plan(networks, lora)
    if any(network in _merged_now for network in networks.values()):
        raise LoraMismatchError(
            "A LoRA is already merged into this base. Leave its `with` block before merging another."
        )
    _merged_now.update(networks.values())
    backup: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for parameter, source in changes if strength != 0 else ():
            if restores:
                # The copy lies in main memory, so that a graphics card holds the weights once.
                backup.append((parameter, parameter.detach().to("cpu", copy=True)))
            _write(parameter, changed(parameter.detach(), source, strength))
        yield
    finally:
        for parameter, saved in reversed(backup):
            _write(parameter, saved)
        if restores:
            _merged_now.difference_update(networks.values())


def changed(weight: Tensor, source: LoraPair | Tensor, strength: float) -> Tensor:
    """A weight or bias, changed by a pair or towards the tensor that takes its place, in float32."""
    if isinstance(source, LoraPair):
        return delta_weight(source, strength, weight.shape, weight.device).add_(weight)
    return torch.lerp(weight.float(), source.to(weight.device, torch.float32), strength)


def _write(parameter: nn.Parameter, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def check_fit(lora: LoraChanges, shapes: Mapping[Place, torch.Size]) -> None:
    """Refuse a network that the LoRA does not fit in full: raises LoraMismatchError with counts and first names.

    shapes: the shape of the parameter in each place, for every layer there is.
    """
    missing: list[str] = []
    misshapen: list[str] = []
    found = 0
    for (name, kind), source in changes_of(lora):
        shape = shapes.get((name, kind))
        if shape is None:
            missing.append(name)
        elif not _fits(source, shape):
            misshapen.append(f"{name} ({_shape_text(source)} for {tuple(shape)})")
        else:
            found += 1
    if missing or misshapen:
        raise LoraMismatchError(_complaint(found, missing, misshapen))


def _plan(networks: Mapping[str, nn.Module], lora: DfosdLora) -> list[tuple[nn.Parameter, LoraPair | Tensor]]:
    """What changes each parameter, in the order in which it does. Raises LoraMismatchError as `check_fit`."""
    layers = {
        kohya: network.get_submodule(name)
        for prefix, network in networks.items()
        for kohya, name in kohya_table(network, prefix).items()
    }
    parameters = {
        (kohya, name): parameter for kohya, layer in layers.items() for name, parameter in layer.named_parameters()
    }
    check_fit(lora, {place: parameter.shape for place, parameter in parameters.items()})
    return [(parameters[place], source) for place, source in changes_of(lora)]


def changes_of(lora: LoraChanges) -> list[tuple[Place, LoraPair | Tensor]]:
    """What is changed, and by what, in the order in which it is."""
    # A replaced weight first: a pair on the same layer (OSEDiff's conv_in) was trained on top of it.
    changes = (("weight", lora.set_weights), ("bias", lora.set_biases), ("weight", lora.pairs))
    return [((name, kind), source) for kind, sources in changes for name, source in sources.items()]


def _without_trailing_ones(shape: torch.Size) -> list[int]:
    """A 1x1 convolution and a linear layer hold the same numbers; SD 1.x and 2.x differ in just that."""
    sizes = list(shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return sizes


def _fits(source: LoraPair | Tensor, shape: torch.Size) -> bool:
    if isinstance(source, Tensor):
        return source.shape == shape
    outputs, inputs = source.up.shape[0], source.down.shape[1:]
    return outputs == shape[0] and _without_trailing_ones(inputs) == _without_trailing_ones(shape[1:])


def _shape_text(source: LoraPair | Tensor) -> str:
    if isinstance(source, Tensor):
        return str(tuple(source.shape))
    return f"{tuple(source.up.shape)} x {tuple(source.down.shape)}"


def _complaint(found: int, missing: list[str], misshapen: list[str]) -> str:
    parts: list[str] = []
    for what, names in (("no such layer", missing), ("wrong shape", misshapen)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} with {what}: {', '.join(names[:3])}{more}")
    total = found + len(missing) + len(misshapen)
    return (
        f"The LoRA does not fit this base: of {total} changes {found} have a place, {'; '.join(parts)}. "
        "Load the base the LoRA was trained on."
    )
