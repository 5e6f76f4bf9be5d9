"""A DFOSD LoRA in memory and on disk: one safetensors file that other programs read as an ordinary LoRA.

Tensors: kohya names (`lora_unet_<layer>.lora_down.weight`, `.lora_up.weight`, `.alpha`), `.set_weight` and
`.set_bias` where a base's own weight or bias is replaced, and `dfosd.prompt_embeds`. The header is `LoraMetadata`.
Same content, same bytes; `load_lora(save_lora(x)) == x`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

from ..errors import LoraFormatError
from ..files import write_whole
from ..tensor_files import TensorFileError, kind_of, parse_safetensors, split_header
from .metadata import LoraMetadata, canonical_json
from .names import lora_tensor_name, parse_lora_key

PROMPT_KEY = "dfosd.prompt_embeds"
HASH_KEY = "modelspec.hash_sha256"


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
        if self.down.ndim < 2 or self.up.numel() != self.up.shape[0] * self.down.shape[0]:
            raise ValueError(f"up {tuple(self.up.shape)} and down {tuple(self.down.shape)} are not a low-rank pair")
        object.__setattr__(self, "alpha", torch.tensor(self.alpha, dtype=torch.float32).item())

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return self.down.shape[0]

    def tensors(self, layer: str) -> dict[str, Tensor]:
        """The tensors that a file holds for `layer`, under their names there."""
        parts = {"down": self.down, "up": self.up, "alpha": torch.tensor(self.alpha)}
        return {lora_tensor_name(layer, part): value for part, value in parts.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class DfosdLora:
    """Everything a DFOSD LoRA file holds. Layers carry kohya names: `lora_unet_...`, `lora_vae_encoder_...`."""

    pairs: Mapping[str, LoraPair]
    """kohya layer name -> its pair."""
    prompt_embeds: Tensor
    """(1, N, context_dim): the fixed text condition."""
    metadata: LoraMetadata
    """What it was trained on and how it is used."""
    set_weights: Mapping[str, Tensor] = field(default_factory=lambda: cast("dict[str, Tensor]", {}))
    """kohya layer name -> weight that takes the base's place (peers train `conv_in` in full)."""
    set_biases: Mapping[str, Tensor] = field(default_factory=lambda: cast("dict[str, Tensor]", {}))
    """kohya layer name -> bias that takes the base's place."""

    def __post_init__(self) -> None:
        expected = self.metadata.base_layout.context_dim
        if self.prompt_embeds.ndim != 3 or self.prompt_embeds.shape[0::2] != (1, expected):
            raise ValueError(f"prompt_embeds must be (1, N, {expected}), got {tuple(self.prompt_embeds.shape)}")
        rank = sum(self.metadata.parts.values())
        other = [layer for layer, pair in self.pairs.items() if rank and pair.rank != rank]
        if other:
            raise ValueError(f"parts of rank {rank} in all need pairs of that rank, {other[0]} has another")

    def __eq__(self, other: object) -> bool:
        """Same metadata and the same tensors: names, dtypes, shapes and every value."""
        if not isinstance(other, DfosdLora):
            return NotImplemented
        ours, theirs = self.tensors(), other.tensors()
        same_names = self.metadata == other.metadata and ours.keys() == theirs.keys()
        return same_names and all(
            ours[key].dtype == theirs[key].dtype and torch.equal(ours[key].cpu(), theirs[key].cpu()) for key in ours
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # tensors have no hash by value

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under their names in the file."""
        tensors = {PROMPT_KEY: self.prompt_embeds}
        for layer, pair in self.pairs.items():
            tensors |= pair.tensors(layer)
        tensors |= {lora_tensor_name(layer, "set_weight"): value for layer, value in self.set_weights.items()}
        return tensors | {lora_tensor_name(layer, "set_bias"): value for layer, value in self.set_biases.items()}


def save_lora(path: Path | str, lora: DfosdLora) -> Path:
    """Write `lora`, atomically: a reader sees the old file or the whole new one. Returns the path."""
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in lora.tensors().items()}
    blob = _with_header(safetensors.torch.save(tensors), lora.metadata.to_header())
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        file.write(blob)
    return path


def load_lora(path: Path | str) -> DfosdLora:
    """Read a DFOSD LoRA. Raises LoraFormatError for a missing, damaged or foreign file, in one line."""
    path = Path(path)
    tensors, header = _read(path)
    _refuse_foreign(path.name, tensors, header)
    metadata = LoraMetadata.from_header(header, path.name)
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value.float()).all())]
    if broken:
        raise LoraFormatError(f"'{path.name}' has values that are not finite in {broken[0]}. Get the file again.")
    prompt_embeds = tensors.pop(PROMPT_KEY, None)
    if prompt_embeds is None:
        raise LoraFormatError(f"'{path.name}' lacks the tensor {PROMPT_KEY}. Get the file again.")
    layers = group_layers(tensors, path.name)
    try:
        return DfosdLora(
            pairs={layer: _pair(parts) for layer, parts in layers.items() if "down" in parts or "up" in parts},
            prompt_embeds=prompt_embeds,
            metadata=metadata,
            set_weights={layer: parts["set_weight"] for layer, parts in layers.items() if "set_weight" in parts},
            set_biases={layer: parts["set_bias"] for layer, parts in layers.items() if "set_bias" in parts},
        )
    except (KeyError, ValueError) as error:
        raise LoraFormatError(f"'{path.name}' is incomplete: {error}. Get the file again.") from error


def group_layers(tensors: Mapping[str, Tensor], name: str) -> dict[str, dict[str, Tensor]]:
    """kohya layer name -> part -> tensor, from kohya or PEFT names; an unknown or double name's error names `name`."""
    layers: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    for key, value in tensors.items():
        parsed = parse_lora_key(key)
        if parsed is None:
            unknown.append(key)
            continue
        parts = layers.setdefault(parsed.layer, {})
        if parsed.part in parts:
            raise LoraFormatError(f"'{name}' names the layer {parsed.layer} twice ({parsed.part}). Get the file again.")
        parts[parsed.part] = value
    if unknown:
        raise LoraFormatError(
            f"'{name}' has {len(unknown)} of {len(tensors)} tensors that are no LoRA's, first: {unknown[0]}. "
            "Give a LoRA in kohya or PEFT names."
        )
    return layers


def _pair(parts: Mapping[str, Tensor]) -> LoraPair:
    down, up = parts["down"], parts["up"]
    # PEFT files carry no alpha; other programs then take the factor 1, and so do we.
    return LoraPair(down=down, up=up, alpha=float(parts["alpha"]) if "alpha" in parts else float(down.shape[0]))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise LoraFormatError(f"There is no LoRA file '{path}'. Give the path of a .safetensors file.")
    try:
        # Not mapped into memory: a file that is mapped cannot be replaced on every system.
        (tensors, metadata), data = parse_safetensors(path.read_bytes())
    except TensorFileError as error:
        raise LoraFormatError(
            f"'{path.name}' is damaged or not a safetensors file ({error.reason}). Get the file again, or convert it."
        ) from error
    recorded = metadata.get(HASH_KEY)
    if "dfosd.format_version" in metadata and recorded not in (None, _hash(data)):
        raise LoraFormatError(f"'{path.name}' is damaged: its tensors do not match {HASH_KEY}. Get the file again.")
    return tensors, metadata


def _refuse_foreign(name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    if "dfosd.format_version" in header:
        return
    found = {
        "base model": "a base model. Give it as the base and a DFOSD LoRA as the LoRA",
        "LoRA": "an ordinary LoRA without DFOSD's metadata. Give a LoRA trained with DFOSD",
        "other": "some other safetensors file. Give a LoRA trained with DFOSD",
    }
    raise LoraFormatError(f"'{name}' is not a DFOSD LoRA but {found[kind_of(tensors)]}.")


def _with_header(blob: bytes, metadata: Mapping[str, str]) -> bytes:
    """Put `metadata` and the data's hash in; safetensors itself writes metadata in random order."""
    header, data = split_header(blob)
    header["__metadata__"] = {**metadata, HASH_KEY: _hash(data)}
    text = canonical_json(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _hash(data: bytes) -> str:
    return "0x" + hashlib.sha256(data).hexdigest()
