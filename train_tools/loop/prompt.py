"""Where the learnable prompt embedding starts: the text encoder's "", a file beside the base, or noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.training.lora_layers import new_prompt

PROMPT_FILE = "prompt_embeds.safetensors"
PROMPT_KEY = "prompt_embeds"


def initial_prompt(base: Path, tokens: int, context_dim: int, rng: torch.Generator) -> Tensor:
    """The start (1, N, context_dim), float32.

    In this order: the base's text encoder's output for "", the embedding saved beside the base, N(0, 0.02^2) of
    `tokens` tokens. Raises ConfigError where there is an encoder and no transformers, or a width does not fit.
    """
    if (base / "text_encoder").is_dir() and (base / "tokenizer").is_dir():
        prompt = _encode_nothing(base)
    elif (base / PROMPT_FILE).is_file():
        prompt = load_file(base / PROMPT_FILE)[PROMPT_KEY].float()
    else:
        prompt = new_prompt(tokens, context_dim, rng)
    if prompt.ndim != 3 or prompt.shape[0::2] != (1, context_dim):
        raise ConfigError(
            f"The prompt embedding beside '{base.name}' is {tuple(prompt.shape)}, expected (1, N, {context_dim}). "
            "Its text encoder is another model's: get the base again."
        )
    return prompt


def _encode_nothing(base: Path) -> Tensor:
    try:
        import transformers  # optional, slow to import, and needed for this alone
    except ImportError as error:
        raise ConfigError(
            f"'{base.name}' has a text encoder, from which the prompt starts, but transformers is not installed. "
            "Install it (pip install transformers), or remove text_encoder/ to start from noise."
        ) from error
    library = cast("Any", transformers)
    tokenizer = library.CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    encoder = library.CLIPTextModel.from_pretrained(base / "text_encoder", local_files_only=True)
    tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    with torch.no_grad():
        return encoder(tokens.input_ids).last_hidden_state.float()
