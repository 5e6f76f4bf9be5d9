"""The embedding of the empty prompt by Stable Diffusion's text encoder.

Imported LoRAs were trained with a prompt that their files do not hold. The empty one needs no tokenizer: it is a start
token, an end token and padding. The encoder runs once, layer by layer from the file's own tensors, so it is never a
network in memory. SD 2.x has OpenCLIP's ViT-H (arXiv 2212.07143) and takes the last but one layer's output, through the
final norm; SD 1.x has OpenAI's ViT-L (arXiv 2103.00020), all its layers, with another activation and padding.
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
SD1_WIDTH = 768
"""Of SD 1.x's encoder, and of no other Stable Diffusion's that has one only. Its padding is the end token."""

Weights = Mapping[str, Tensor]

_TRANSFORMERS = "text_model."
"""How transformers' names begin before its version 5, which leaves this out."""
_SD1_FILE = "cond_stage_model.transformer."
"""What an SD 1.x checkpoint puts before them."""
_PARTS = ("embeddings.", "encoder.layers.", "final_layer_norm.")


def is_text_encoder_key(key: str) -> bool:
    """Whether a checkpoint's tensor belongs to the text encoder."""
    return key.startswith((LDM_TEXT, _SD1_FILE, _TRANSFORMERS, *_PARTS))


@torch.no_grad()
def empty_prompt(weights: Weights, name: str) -> Tensor:
    """(1, 77, width) float32: what the UNet is conditioned on for the text "".

    weights: the encoder's tensors in OpenCLIP's names (after `cond_stage_model.model.`) or transformers', with
    `text_model.` or without, also after `cond_stage_model.transformer.`. Raises BaseModelMismatchError for `name` if
    there is none or tensors are missing.
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
    width = encoder.tokens().shape[-1]
    padding = END_TOKEN if width == SD1_WIDTH else PADDING
    tokens = torch.tensor([START_TOKEN, END_TOKEN, *[padding] * (TOKENS - 2)])
    x = (encoder.tokens()[tokens].float() + encoder.positions().float())[None]
    for layer in range(encoder.layers):
        h = encoder.norm(layer, 1, x)
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", d=HEAD_WIDTH) for part in encoder.qkv(layer, h))
        h = rearrange(F.scaled_dot_product_attention(q, k, v, is_causal=True), "b h n d -> b n (h d)")
        x = x + encoder.out(layer, h)
        x = x + encoder.mlp(layer, encoder.norm(layer, 2, x))
    return F.layer_norm(x, (width,), *encoder.final_norm())


def _activation(x: Tensor, width: int) -> Tensor:
    """GELU, and at SD 1.x's width its approximation in OpenAI's CLIP (clip/model.py, `QuickGELU`)."""
    return x * torch.sigmoid(1.702 * x) if width == SD1_WIDTH else F.gelu(x)


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
        hidden = _activation(F.linear(x, *self.pair(f"{name}.c_fc")), x.shape[-1])
        return F.linear(hidden, *self.pair(f"{name}.c_proj"))

    def final_norm(self) -> tuple[Tensor, Tensor]:
        return self.pair(f"{LDM_TEXT}ln_final")


class _Transformers(_Named):
    """`text_encoder/` of a diffusers folder, where SD 2.x's leaves the last layer out already; SD 1.x everywhere."""

    def __init__(self, weights: Weights) -> None:
        names = {key: key.removeprefix(_SD1_FILE).removeprefix(_TRANSFORMERS) for key in weights}
        super().__init__({name: weights[key] for key, name in names.items()})

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
        hidden = _activation(F.linear(x, *self.pair(f"{name}.fc1")), x.shape[-1])
        return F.linear(hidden, *self.pair(f"{name}.fc2"))

    def final_norm(self) -> tuple[Tensor, Tensor]:
        return self.pair("final_layer_norm")
