"""What a LoRA changes in a base: low-rank pairs, and weights and biases that are replaced in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from .metadata import LoraMetadata
from .names import lora_tensor_name


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraPair:
    """One layer's low-rank change: alpha / rank * up @ down."""

    down: Tensor
    """(rank, in) or (rank, in, kh, kw)."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1)."""
    alpha: float
    """Kept as float32, as the file stores it."""

    def __post_init__(self) -> None:
        is_pair = self.down.ndim >= 2 and self.up.ndim >= 2 and self.down.shape[0] > 0
        if not is_pair or self.up.numel() != self.up.shape[0] * self.down.shape[0]:
            raise ValueError(f"up {tuple(self.up.shape)} and down {tuple(self.down.shape)} are not a low-rank pair")
        object.__setattr__(self, "alpha", torch.tensor(self.alpha, dtype=torch.float32).item())

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return self.down.shape[0]

    @property
    def scaling(self) -> float:
        """The factor of the product: alpha / rank."""
        return self.alpha / self.rank

    def tensors(self, layer: str) -> dict[str, Tensor]:
        """The tensors that a file holds for `layer`, under their names there."""
        parts = {"down": self.down, "up": self.up, "alpha": torch.tensor(self.alpha)}
        return {lora_tensor_name(layer, part): value for part, value in parts.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraChanges:
    """Layers carry kohya names: `lora_unet_...`, `lora_vae_encoder_...`."""

    pairs: Mapping[str, LoraPair]
    """kohya layer name -> its pair."""
    metadata: LoraMetadata
    """What it was trained on and how it is used."""
    set_weights: Mapping[str, Tensor] = field(default_factory=lambda: cast("dict[str, Tensor]", {}))
    """kohya layer name -> weight that takes the base's place (peers train `conv_in` in full)."""
    set_biases: Mapping[str, Tensor] = field(default_factory=lambda: cast("dict[str, Tensor]", {}))
    """kohya layer name -> bias that takes the base's place."""

    def __post_init__(self) -> None:
        rank = sum(self.metadata.parts.values())
        other = [layer for layer, pair in self.pairs.items() if rank and pair.rank != rank]
        if other:
            raise ValueError(f"parts of rank {rank} in all need pairs of that rank, {other[0]} has another")

    def __eq__(self, other: object) -> bool:
        """Same metadata and the same tensors: names, dtypes, shapes and every value."""
        if not isinstance(other, LoraChanges) or type(other) is not type(self):
            return NotImplemented
        ours, theirs = self.tensors(), other.tensors()
        same_names = self.metadata == other.metadata and ours.keys() == theirs.keys()
        return same_names and all(
            ours[key].dtype == theirs[key].dtype and torch.equal(ours[key].cpu(), theirs[key].cpu()) for key in ours
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tensors have no hash by value

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under their names in a file."""
        tensors: dict[str, Tensor] = {}
        for layer, pair in self.pairs.items():
            tensors |= pair.tensors(layer)
        tensors |= {lora_tensor_name(layer, "set_weight"): value for layer, value in self.set_weights.items()}
        return tensors | {lora_tensor_name(layer, "set_bias"): value for layer, value in self.set_biases.items()}

    def header(self) -> dict[str, str]:
        """A file's metadata."""
        return self.metadata.to_header()
