"""What a foreign file holds, what becomes of it, and the parts of reading it that all importers share.

peft stores `<module>.lora_A[.adapter].weight` (rank, in, ...) and `lora_B` (out, rank, ...), and keeps alpha out of the
file: each importer says it. peft's own default is alpha 8, whatever the rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from ...errors import LoraFormatError, one_line
from ...tensor_files import is_finite
from ..file import ImportedLora as ImportedLora
from ..file import LoraPair
from ..metadata import BaseLayout
from ..names import UNET_PREFIX, PeftKey, kohya_name, parse_peft_key

PEFT_DEFAULT_ALPHA = 8.0
UNET_PARTS = ("encoder", "decoder", "others")
"""OSEDiff and PiSA-SR put an adapter of its own on each part of the UNet."""
BASE_MODEL = "stable-diffusion-2-1-base"
SD_WIDTHS = (320, 640, 1280, 1280)

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file's entries, read without running any code of it."""

    name: str
    """The file's name, for messages only."""
    values: Mapping[str, Any]
    """Tensors, and whatever plain values stand beside them."""
    sha256: str
    """Of the file."""
    header: Mapping[str, str] = field(default_factory=lambda: cast("dict[str, str]", {}))
    """A safetensors file's metadata."""

    def tensors(self, key: str = "") -> dict[str, Tensor]:
        """The tensors of the entry `key`, or of the whole file. Raises LoraFormatError if it holds others or none."""
        found = cast("object", self.values.get(key)) if key else self.values
        where = f"entry {key}" if key else "file"
        if not isinstance(found, Mapping) or not found:
            self.refuse(f"expected tensors in its {where}, found {_kind(found)}")
        tensors: dict[str, Tensor] = {}
        for name, value in cast("Mapping[object, object]", found).items():
            if not isinstance(value, Tensor) or value.dtype not in _DTYPES:
                what = value.dtype if isinstance(value, Tensor) else _kind(value)
                self.refuse(f"expected float32, float16 or bfloat16 tensors in its {where}, found {what} in {name}")
            if not is_finite(value):
                self.refuse(f"expected finite values, found others in {name}")
            tensors[str(name)] = value.detach()
        return tensors

    def whole(self, key: str) -> int:
        """The whole number under `key`. Raises LoraFormatError."""
        value: object = self.values.get(key)
        if type(value) is not int or not 0 < value <= 4096:
            self.refuse(f"expected a whole number from 1 to 4096 as {key}, found {_kind(value)}")
        return value

    def names(self, key: str) -> set[str]:
        """The list of layer names under `key`. Raises LoraFormatError."""
        value: object = self.values.get(key)
        items = cast("list[object]", value) if isinstance(value, list) else []
        found = {item for item in items if isinstance(item, str)}
        if not items or not all(isinstance(item, str) for item in items):
            self.refuse(f"expected a list of layer names as {key}, found {_kind(value)}")
        return found

    def only(self, keys: Collection[str]) -> None:
        """Raises LoraFormatError for an entry that is none of `keys`."""
        more = sorted(self.values.keys() - set(keys))
        if more:
            self.refuse(f"expected {len(keys)} entries, found others, first {more[0]}")

    def refuse(self, what: str) -> NoReturn:
        """Raise LoraFormatError, one line: the file is of a known kind and damaged."""
        raise LoraFormatError(f"'{self.name}' is damaged: {one_line(what)}. Get the file again.")


def _kind(value: object) -> str:
    return repr(value) if isinstance(value, int | float) or value is None else f"a {type(value).__name__}"


def modules(tensors: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """The peft adapters in a state dict ("" for one without a name) and the diffusers names of their layers."""
    found: dict[str, set[str]] = {}
    for name in tensors:
        if key := _pair_key(name):
            found.setdefault(key.adapter, set()).add(key.module)
    return found


def check_modules(content: Content, tensors: Mapping[str, Tensor], expected: Mapping[str, set[str]]) -> None:
    """expected: adapter -> the layers that the file itself lists for it. Raises LoraFormatError unless all are there,
    and no other.
    """
    found = modules(tensors)
    more = sorted(set(found) - set(expected))
    if more:
        content.refuse(f"expected the adapters {', '.join(expected)}, found {more[0]} too")
    for adapter, layers in expected.items():
        differing = layers ^ found.get(adapter, set())
        if differing:
            content.refuse(
                f"expected the {len(layers)} listed layers in {adapter}, found {len(found.get(adapter, set()))}, "
                f"first difference {min(differing)}"
            )


def peft_pairs(
    content: Content,
    tensors: Mapping[str, Tensor],
    *,
    rank: int,
    alpha: float,
    prefix: str = UNET_PREFIX,
    only: Collection[str] | None = None,
) -> dict[str, LoraPair]:
    """kohya layer name -> pair, from peft's names.

    rank: what every pair must have. only: the adapters to take, None for all. Raises LoraFormatError for a tensor with
    another name, a half pair or a shape that does not fit.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        key = _pair_key(name)
        if key is None:
            content.refuse(f"expected tensors of a LoRA only, found {name}")
        if only is not None and key.adapter not in only:
            continue
        parts = halves.setdefault(kohya_name(key.module, prefix), {})
        if key.part in parts:
            content.refuse(f"expected each layer once, found {key.module} twice")
        parts[key.part] = value
    return {layer: _pair(content, layer, parts, rank, alpha) for layer, parts in halves.items()}


def _pair_key(name: str) -> PeftKey | None:
    """The name of half a pair. Each method's tables are of one network, so none is named, and alpha is never there."""
    key = parse_peft_key(name)
    return key if key and not key.network and key.part != "alpha" else None


def _pair(content: Content, layer: str, parts: Mapping[str, Tensor], rank: int, alpha: float) -> LoraPair:
    if len(parts) < 2:
        content.refuse(f"expected lora_A and lora_B on {layer}, found one of them")
    down, up = parts["down"], parts["up"]
    if down.shape[:1] != (rank,) or not up.numel():
        content.refuse(f"expected rank {rank} on {layer}, found shapes of {tuple(down.shape)} and {tuple(up.shape)}")
    try:
        return LoraPair(down=down, up=up, alpha=alpha)
    except (ValueError, IndexError) as error:
        content.refuse(f"expected a pair on {layer}, found that {error}")


def sd_layout(content: Content, pairs: Mapping[str, LoraPair], layers: int | None = None) -> BaseLayout:
    """The base that UNet pairs of peft were trained on, from their shapes: one that predicts noise, with SD's VAE.

    layers: how many there must be if the base has Stable Diffusion's size. Raises LoraFormatError where that fails.
    """
    widths: list[int] = []
    while (pair := pairs.get(f"{UNET_PREFIX}_down_blocks_{len(widths)}_resnets_0_conv1")) is not None:
        widths.append(pair.up.shape[0])
    attention = [pair for layer, pair in pairs.items() if layer.endswith("attn2_to_k")]
    if not widths or not attention:
        content.refuse("expected layers of a Stable Diffusion UNet, found no residual block or no transformer")
    if layers is not None and tuple(widths) == SD_WIDTHS and len(pairs) != layers:
        content.refuse(f"expected {layers} layers, found {len(pairs)}")
    return BaseLayout(
        context_dim=attention[0].down.shape[1],
        in_channels=4,
        out_channels=4,
        latent_channels=4,
        latent_factor=8,
        block_out_channels=tuple(widths),
        prediction_type="epsilon",
    )
