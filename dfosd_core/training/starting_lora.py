"""A LoRA to start training from, whatever its rank and its layers.

A trained layer takes it at the run's own rank: a smaller one is filled up with fresh rows whose `up` is zero, which
changes nothing; a larger one is cut to its largest singular values. What the run does not train (layers without a LoRA
here, weights replaced in full) is frozen into copies of the base's layers, and stands unchanged in each exported LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..lora.changes import LoraChanges, LoraPair
from ..lora.merge import Place, changed, changes_of
from ..lora.names import UNET_PREFIX, kohya_name
from .lora_layers import LoraLayer


class Fitted(NamedTuple):
    """A pair at another rank and factor."""

    down: Tensor
    """(rank, in) or (rank, in, kh, kw), float32."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1), float32."""
    error: float
    """Of the weight's change, relative, in the Frobenius norm; 0 where nothing was cut."""


@torch.no_grad()
def fit_pair(pair: LoraPair, fresh: LoraLayer) -> Fitted:
    """`pair` at the rank and factor of `fresh`, whose own `down` fills what is left of the rank.

    Raises ValueError where they are not of one layer's shape.
    """
    outputs, rank = fresh.up_weight.shape[:2]
    rows = fresh.down_weight.flatten(1)
    down, up, error = pair.down.to(rows.device).flatten(1).float(), pair.up.to(rows.device).flatten(1).float(), 0.0
    if up.shape[0] != outputs or down.shape[1] != rows.shape[1]:
        raise ValueError(f"up {tuple(pair.up.shape)} and down {tuple(pair.down.shape)} are of another layer")
    if pair.rank > rank:
        down, up, error = _cut(down, up, rank)
    # Exactly 1 for a LoRA of this run's rank and alpha, which then comes through bit for bit.
    up = up * (pair.scaling / fresh.scaling)
    full_down, full_up = rows.clone(), torch.zeros(outputs, rank, device=rows.device)
    full_down[: down.shape[0]], full_up[:, : up.shape[1]] = down, up
    return Fitted(full_down.reshape(fresh.down_weight.shape), full_up.reshape(fresh.up_weight.shape), error)


def _cut(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The product's best approximation of a smaller rank (Eckart and Young), without making the product."""
    device = up.device
    up, down = up.cpu(), down.cpu()  # MPS has no float64
    q_up, r_up = torch.linalg.qr(up.double())
    q_down, r_down = torch.linalg.qr(down.double().T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    root = values[:rank].sqrt()
    all_of_it = values.square().sum()
    error = (values[rank:].square().sum() / all_of_it).sqrt().item() if all_of_it > 0 else 0.0
    cut_up, cut_down = q_up @ left[:, :rank] * root, root[:, None] * (right[:rank] @ q_down.T)
    return cut_down.float().to(device), cut_up.float().to(device), error


def layers_of(network: nn.Module, prefix: str = UNET_PREFIX) -> dict[str, nn.Module]:
    """kohya name -> the base's layer, also where a LoraLayer stands around it."""
    trained = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}
    found: dict[str, nn.Module] = {kohya_name(name, prefix): layer.base for name, layer in trained.items()}
    for name, layer in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in trained)
        if isinstance(layer, nn.Conv2d | nn.Linear) and not inside:
            found[kohya_name(name, prefix)] = layer
    return found


def untrained_part(lora: LoraChanges, trained: Mapping[str, LoraLayer]) -> LoraChanges:
    """All of it but the pairs on `trained` layers."""
    return LoraChanges(
        pairs={name: pair for name, pair in lora.pairs.items() if name not in trained},
        metadata=lora.metadata,
        set_weights=lora.set_weights,
        set_biases=lora.set_biases,
    )


@torch.no_grad()
def freeze_into(layers: Mapping[str, nn.Module], lora: LoraChanges) -> None:
    """Give `layers` new, frozen parameters with `lora` in them; tensors shared with other networks stay as they are."""
    values: dict[Place, Tensor] = {}
    for (name, kind), source in changes_of(lora):
        own = layers[name].get_parameter(kind)
        values[name, kind] = changed(values.get((name, kind), own.detach().float()), source, 1.0)
    for (name, kind), value in values.items():
        setattr(layers[name], kind, nn.Parameter(value, requires_grad=False))
