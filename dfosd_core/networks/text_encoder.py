"""The embedding of the empty prompt by Stable Diffusion 2.x's text encoder (OpenCLIP ViT-H, arXiv 2212.07143).

Imported LoRAs were trained with a prompt that their files do not hold. The empty one needs no tokenizer: it is a start
token, an end token and padding. The encoder runs once, layer by layer from the file's own tensors, so it is never a
network in memory. SD 2.x takes the last but one layer's output, through the final norm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..errors import BaseModelMismatchError
from ..tensor_files import LDM_TEXT

START_TOKEN, END_TOKEN, PADDING = 49406, 49407, 0
TOKENS = 77
HEAD_WIDTH = 64

Weights = Mapping[str, Tensor]

_TRANSFORMERS = "text_model."
"""How transformers' names begin before its version 5, which leaves this out."""
_PARTS = ("embeddings.", "encoder.layers.", "final_layer_norm.")


def is_text_encoder_key(key: str) -> bool:
    """Whether a checkpoint's tensor belongs to the text encoder."""
    return key.startswith((LDM_TEXT, _TRANSFORMERS, *_PARTS))


@torch.no_grad()
def empty_prompt(weights: Weights, name: str) -> Tensor:
    """(1, 77, width) float32: what the UNet is conditioned on for the text "".

    weights: the encoder's tensors in OpenCLIP's names (after `cond_stage_model.model.`) or transformers', with
    `text_model.` or without. Raises BaseModelMismatchError for `name` if there is none or tensors are missing.
    """
    if not any(is_text_encoder_key(key) for key in weights):
        raise BaseModelMismatchError(
            f"'{name}' holds no text encoder, from which this LoRA's prompt comes. Give a complete SD 2.1-base "
            "(a folder with text_encoder/, or the full checkpoint)."
        )
    is_ldm = any(key.startswith(LDM_TEXT) for key in weights)
    encoder = _OpenClip(weights) if is_ldm else _Transformers(weights)
    try:
        return _run(encoder)
    except KeyError as error:
        raise BaseModelMismatchError(
            f"'{name}': the text encoder lacks the tensor {error}. Get the file again, or give SD 2.1-base."
        ) from error


def _run(encoder: _OpenClip | _Transformers) -> Tensor:
    tokens = torch.tensor([START_TOKEN, END_TOKEN, *[PADDING] * (TOKENS - 2)])
    x = (encoder.tokens()[tokens].float() + encoder.positions().float())[None]
    width = x.shape[-1]
    for layer in range(encoder.layers):
        h = encoder.norm(layer, 1, x)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", d=HEAD_WIDTH) for part in encoder.qkv(layer, h))
        h = rearrange(F.scaled_dot_product_attention(q, k, v, is_causal=True), "b h n d -> b n (h d)")
        x = x + encoder.out(layer, h)
        x = x + encoder.mlp(layer, encoder.norm(layer, 2, x))
    return F.layer_norm(x, (width,), *encoder.final_norm())


class _Named:
    """Layers by their names in a state dict, each tensor turned to float32 when it is used."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def get(self, name: str) -> Tensor:
        return self.weights[name].float()

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get(f"{name}.weight"), self.get(f"{name}.bias")

    def count(self, pattern: str) -> int:
        numbers = [int(match[1]) for key in self.weights if (match := re.match(pattern, key))]
        return 1 + max(numbers, default=-1)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self.pair(name))


class _OpenClip(_Named):
    """`cond_stage_model.model.*` of an SD 2.x checkpoint."""

    @property
    def layers(self) -> int:
        # The last layer is in the file and not used.
        return self.count(re.escape(LDM_TEXT) + r"transformer\.resblocks\.(\d+)\.") - 1

    def tokens(self) -> Tensor:
        return self.weights[f"{LDM_TEXT}token_embedding.weight"]

    def positions(self) -> Tensor:
        return self.weights[f"{LDM_TEXT}positional_embedding"]

    def norm(self, layer: int, which: int, x: Tensor) -> Tensor:
        return self.layer_norm(f"{LDM_TEXT}transformer.resblocks.{layer}.ln_{which}", x)

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, ...]:
        name = f"{LDM_TEXT}transformer.resblocks.{layer}.attn.in_proj_"
        return F.linear(x, self.get(f"{name}weight"), self.get(f"{name}bias")).chunk(3, dim=-1)

    def out(self, layer: int, x: Tensor) -> Tensor:
        return F.linear(x, *self.pair(f"{LDM_TEXT}transformer.resblocks.{layer}.attn.out_proj"))

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"{LDM_TEXT}transformer.resblocks.{layer}.mlp"
        return F.linear(F.gelu(F.linear(x, *self.pair(f"{name}.c_fc"))), *self.pair(f"{name}.c_proj"))

    def final_norm(self) -> tuple[Tensor, Tensor]:
        return self.pair(f"{LDM_TEXT}ln_final")


class _Transformers(_Named):
    """`text_encoder/` of a diffusers folder; its configuration leaves the last layer out already."""

    def __init__(self, weights: Weights) -> None:
        super().__init__({key.removeprefix(_TRANSFORMERS): value for key, value in weights.items()})

    @property
    def layers(self) -> int:
        return self.count(r"encoder\.layers\.(\d+)\.")

    def tokens(self) -> Tensor:
        return self.weights["embeddings.token_embedding.weight"]

    def positions(self) -> Tensor:
        return self.weights["embeddings.position_embedding.weight"]

    def norm(self, layer: int, which: int, x: Tensor) -> Tensor:
        return self.layer_norm(f"encoder.layers.{layer}.layer_norm{which}", x)

    def qkv(self, layer: int, x: Tensor) -> tuple[Tensor, ...]:
        name = f"encoder.layers.{layer}.self_attn"
        return tuple(F.linear(x, *self.pair(f"{name}.{part}_proj")) for part in "qkv")

    def out(self, layer: int, x: Tensor) -> Tensor:
        return F.linear(x, *self.pair(f"encoder.layers.{layer}.self_attn.out_proj"))

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"encoder.layers.{layer}.mlp"
        return F.linear(F.gelu(F.linear(x, *self.pair(f"{name}.fc1"))), *self.pair(f"{name}.fc2"))

    def final_norm(self) -> tuple[Tensor, Tensor]:
        return self.pair("final_layer_norm")
