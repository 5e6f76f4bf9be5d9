"""The prompt of a run: the LoRA's own, or a CONDITIONING's, which an imported LoRA needs."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from ...dfosd_core.errors import BaseModelMismatchError, ConfigError
from ...dfosd_core.lora.file import DfosdLora, ImportedLora

CONDITIONING_HELP = (
    "One text embedding instead of the LoRA's own prompt. An imported LoRA has no prompt of its own, so connect one."
)


def with_prompt(lora: DfosdLora | ImportedLora, conditioning: Any) -> DfosdLora:
    """`lora` with the conditioning's embedding as its prompt; with its own where there is none, None.

    Raises ConfigError for an imported LoRA without a conditioning, and what `prompt_of` raises.
    """
    if conditioning is None:
        if isinstance(lora, DfosdLora):
            return lora
        raise ConfigError(
            f"Expected a conditioning for the LoRA of {lora.metadata.source}, whose file holds no prompt, found none. "
            "Connect CLIP Text Encode with an empty text, and to it the CLIP of the same checkpoint as the model."
        )
    prompt_embeds = prompt_of(conditioning, lora.metadata.base_layout.context_dim)
    if isinstance(lora, ImportedLora):
        return lora.with_prompt(prompt_embeds)
    return dataclasses.replace(lora, prompt_embeds=prompt_embeds)


def prompt_of(conditioning: Any, width: int) -> Tensor:
    """A CONDITIONING's embedding, (1, N, width). Raises ConfigError for several, BaseModelMismatchError for another
    width.
    """
    if len(conditioning) != 1:
        raise ConfigError(f"Expected a conditioning of one text embedding, found {len(conditioning)}. Connect one.")
    embedding: Tensor = conditioning[0][0][:1]
    if embedding.ndim != 3 or embedding.shape[-1] != width:
        raise BaseModelMismatchError(
            f"Expected a conditioning of width {width}, the LoRA's, found {tuple(embedding.shape)}. "
            "Encode the text with the CLIP of the LoRA's base."
        )
    return embedding
