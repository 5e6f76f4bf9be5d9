"""A DFOSD LoRA in memory and on disk: one safetensors file that other programs read as an ordinary LoRA.

Tensors: kohya names (`lora_unet_<layer>.lora_down.weight`, `.lora_up.weight`, `.alpha`), `.set_weight` and
`.set_bias` where a base's own weight or bias is replaced, and `dfosd.prompt_embeds`, or the header entry `dfosd.prompt`
if that is the empty text. The header is `LoraMetadata`. Same content, same bytes; `read_lora(save_lora(x)) == x`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import LoraFormatError, one_line
from ..one_step import PREDICTION_RULES
from ..safetensors_io import load_safetensors, tensor_bytes, write_safetensors
from ..tensor_files import TensorFileError, is_finite, kind_of
from .changes import LoraChanges, LoraPair
from .metadata import LoraMetadata
from .names import parse_lora_key

if TYPE_CHECKING:
    from hashlib import _Hash  # pyright: ignore[reportPrivateUsage]

PROMPT_KEY = "dfosd.prompt_embeds"
PROMPT_TEXT_KEY = "dfosd.prompt"
"""In the header, instead of that tensor: the prompt as text, which so far is always empty."""
HASH_KEY = "modelspec.hash_sha256"


@dataclass(frozen=True, kw_only=True, eq=False)
class DfosdLora(LoraChanges):
    """Everything a DFOSD LoRA needs to be used."""

    prompt_embeds: Tensor
    """(1, N, context_dim): the fixed text condition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = self.metadata.base_layout.context_dim
        if self.prompt_embeds.ndim != 3 or self.prompt_embeds.shape[0::2] != (1, expected):
            raise ValueError(f"prompt_embeds must be (1, N, {expected}), got {tuple(self.prompt_embeds.shape)}")

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under their names in the file."""
        return {PROMPT_KEY: self.prompt_embeds, **super().tensors()}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedLora(LoraChanges):
    """A DFOSD LoRA but for the prompt, which was the empty text: its embedding comes from the base's text encoder."""

    def with_prompt(self, prompt_embeds: Tensor) -> DfosdLora:
        """The whole. prompt_embeds: (1, N, context_dim); raises ValueError for another shape."""
        return DfosdLora(
            pairs=self.pairs,
            prompt_embeds=prompt_embeds,
            metadata=self.metadata,
            set_weights=self.set_weights,
            set_biases=self.set_biases,
        )

    def header(self) -> dict[str, str]:
        """A file's metadata, which says what the prompt is."""
        return super().header() | {PROMPT_TEXT_KEY: ""}


def save_lora(path: Path | str, lora: LoraChanges) -> Path:
    """Write `lora`, atomically: a reader sees the old file or the whole new one. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, lora.tensors(), lora.header())
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all; the same content always gives the same bytes. Raises OSError."""
    # Large numbers first, so that each tensor lies at a multiple of its numbers' size; then by name.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    digest = hashlib.sha256()
    for value in ordered.values():
        digest.update(tensor_bytes(value))
    write_safetensors(path, ordered, dict(sorted({**header, HASH_KEY: _stated(digest)}.items())))


def load_lora(path: Path | str) -> DfosdLora:
    """Read a DFOSD LoRA that holds its prompt; `open_lora` also takes others.

    Raises LoraFormatError for a missing, damaged or foreign file, in one line.
    """
    lora = read_lora(path)
    if isinstance(lora, DfosdLora):
        return lora
    raise LoraFormatError(
        f"'{Path(path).name}' holds no prompt: it was trained with the empty text, which the base's text encoder "
        "gives. Give it where DFOSD takes other methods' LoRAs, or convert the original with --prompt-embeds."
    )


def read_lora(path: Path | str) -> DfosdLora | ImportedLora:
    """Read a DFOSD LoRA, also one whose prompt is the empty text. Raises LoraFormatError as `load_lora`."""
    path = Path(path)
    tensors, header = _read(path)
    _refuse_foreign(path.name, tensors, header)
    metadata = LoraMetadata.from_header(header, path.name)
    check_finite(tensors, path.name)
    prompt_embeds = tensors.pop(PROMPT_KEY, None)
    if prompt_embeds is None and header.get(PROMPT_TEXT_KEY) != "":
        raise LoraFormatError(f"'{path.name}' lacks the tensor {PROMPT_KEY}. Get the file again.")
    layers = group_layers(tensors, path.name)
    try:
        lora = ImportedLora(
            pairs={layer: _pair(parts) for layer, parts in layers.items() if "down" in parts or "up" in parts},
            metadata=metadata,
            set_weights={layer: parts["set_weight"] for layer, parts in layers.items() if "set_weight" in parts},
            set_biases={layer: parts["set_bias"] for layer, parts in layers.items() if "set_bias" in parts},
        )
        return lora if prompt_embeds is None else lora.with_prompt(prompt_embeds)
    except (KeyError, ValueError, RuntimeError) as error:  # RuntimeError: of an alpha that is no number
        raise LoraFormatError(f"'{path.name}' is incomplete: {one_line(str(error))}. Get the file again.") from error


def check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises LoraFormatError for the first tensor with NaN or an infinity."""
    broken = next((key for key, value in tensors.items() if not is_finite(value)), None)
    if broken is not None:
        raise LoraFormatError(f"'{name}' has values that are not finite in {one_line(broken)}. Get the file again.")


def ordinary_lora(name: str) -> str:
    """The error for a LoRA that lacks what DFOSD has to know."""
    return (
        f"'{name}' is an ordinary LoRA without DFOSD's metadata: it does not say how it is used. If it makes an "
        f"upscaler of SD 2.1-base, convert it: dfosd convert {name} -o out.safetensors --timestep T "
        f"--rule {'|'.join(PREDICTION_RULES)}"
    )


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
            f"'{name}' has {len(unknown)} of {len(tensors)} tensors that are no LoRA's, first: {one_line(unknown[0])}. "
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
    digest = hashlib.sha256()
    try:
        tensors, metadata = load_safetensors(path, digest)
    except TensorFileError as error:
        raise LoraFormatError(
            f"'{path.name}' is damaged or not a safetensors file ({error.reason}). Get the file again, or convert it."
        ) from error
    recorded = metadata.get(HASH_KEY)
    if "dfosd.format_version" in metadata and recorded not in (None, _stated(digest)):
        raise LoraFormatError(f"'{path.name}' is damaged: its tensors do not match {HASH_KEY}. Get the file again.")
    return tensors, metadata


def _refuse_foreign(name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    if "dfosd.format_version" in header:
        return
    kind = kind_of(tensors)
    if kind == "LoRA":
        raise LoraFormatError(ordinary_lora(name))
    found = "a base model. Give it as the base and a DFOSD LoRA as the LoRA"
    raise LoraFormatError(
        f"'{name}' is not a DFOSD LoRA but "
        f"{found if kind == 'base model' else 'some other safetensors file. Give a LoRA trained with DFOSD'}."
    )


def _stated(digest: _Hash) -> str:
    """As modelspec has it."""
    return "0x" + digest.hexdigest()
