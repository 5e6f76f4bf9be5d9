"""A LoRA as ComfyUI's, the WebUIs' and diffusers' own loaders take one: kohya's names, and nothing else in the file.

Those programs agree on pairs, and on `.diff` and `.diff_b` for a weight and a bias that are changed in full: ComfyUI
lets a `.diff` take the place of a pair on the same layer, A1111 the other way round, so a layer has one of them only.
What they do with the LoRA is up to the user: the file is no upscaler there.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..errors import ConfigError
from ..lora.changes import LoraChanges
from ..lora.file import DfosdLora
from ..lora.merge import Place, changed, changes_of, check_fit
from ..lora.metadata import check_base
from ..lora.names import VAE_PREFIX, lora_tensor_name
from .base_files import BaseFiles

EXPORTED_KEY = "dfosd.exported"
SD2_CONTEXT = 1024


class Exported(NamedTuple):
    """What to write, and what it lacks."""

    tensors: dict[str, Tensor]
    header: dict[str, str]
    losses: list[str]
    """One line each: what is not in it, and what that costs."""


def needs_base(lora: LoraChanges) -> bool:
    """Whether `export` wants the base: only a difference from its weights can be written."""
    return bool(lora.set_weights or lora.set_biases)


def export(lora: LoraChanges, base: BaseFiles | None = None) -> Exported:
    """Raises ConfigError without a base that is needed, BaseModelMismatchError or LoraMismatchError with another."""
    in_full = _in_full(lora, base)
    tensors: dict[str, Tensor] = {}
    for layer, pair in lora.pairs.items():
        if not layer.startswith(VAE_PREFIX) and (layer, "weight") not in in_full:
            tensors |= pair.tensors(layer)
    for (layer, kind), value in in_full.items():
        if not layer.startswith(VAE_PREFIX):
            tensors[lora_tensor_name(layer, "diff" if kind == "weight" else "diff_b")] = value
    return Exported(tensors, _header(lora), _losses(lora))


def _in_full(lora: LoraChanges, base: BaseFiles | None) -> dict[Place, Tensor]:
    """What a replaced weight or bias, with the pair on top of it, adds to the base's, in float32."""
    if not needs_base(lora):
        return {}
    if base is None:
        names = ", ".join(sorted({*lora.set_weights, *lora.set_biases})[:3])
        raise ConfigError(
            f"The LoRA replaces weights in full ({names}), and an ordinary LoRA only holds their difference from the "
            "base's. Give --base."
        )
    check_base(lora.metadata.base_layout, base.layout)
    check_fit(lora, base.shapes())
    replaced: set[Place] = {(layer, "weight") for layer in lora.set_weights}
    replaced |= {(layer, "bias") for layer in lora.set_biases}
    # A WebUI reads a bias's difference only beside a weight's.
    replaced |= {(layer, "weight") for layer in lora.set_biases}
    values = {place: base.tensor(place).float() for place in replaced}
    for place, source in changes_of(lora):
        if place in values:
            values[place] = changed(values[place], source, 1.0)
    return {place: value - base.tensor(place).float() for place, value in values.items()}


def _header(lora: LoraChanges) -> dict[str, str]:
    """Without the format version, so that nobody takes it for a DFOSD LoRA; `convert` reads the rest again."""
    header = {key: value for key, value in lora.header().items() if key != "dfosd.format_version"}
    header[EXPORTED_KEY] = "kohya"
    if lora.metadata.base_layout.context_dim == SD2_CONTEXT:
        header["ss_v2"] = "True"  # else A1111 takes it for SD 1's and hides it
    return header


def _losses(lora: LoraChanges) -> list[str]:
    lines: list[str] = []
    in_vae = {layer for layer in (*lora.pairs, *lora.set_weights, *lora.set_biases) if layer.startswith(VAE_PREFIX)}
    if in_vae:
        lines.append(
            f"without {len(in_vae)} layers of the VAE's encoder, which no LoRA loader takes: encoded by the plain VAE, "
            "results differ from the method's; `dfosd merge` keeps them"
        )
    if isinstance(lora, DfosdLora):
        lines.append("without the prompt embedding: other programs condition on the text that you type")
    return lines
