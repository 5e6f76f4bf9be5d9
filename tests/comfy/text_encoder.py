"""A random text encoder of SD 2.x's full size: ComfyUI knows no smaller one. Layers and names are OpenCLIP's."""

from __future__ import annotations

import torch
from torch import Tensor

from dfosd_core.tensor_files import LDM_TEXT

WIDTH, LAYERS, WORDS, TOKENS = 1024, 24, 49408, 77


def text_encoder_tensors() -> dict[str, Tensor]:
    """As an SD 2.x checkpoint has them, in float16: 354 million numbers."""
    generator = torch.Generator().manual_seed(6)

    def normal(*shape: int, mean: float = 0.0, std: float | None = None) -> Tensor:
        return (mean + torch.randn(shape, generator=generator) * (std or shape[-1] ** -0.5)).half()

    tensors = {"token_embedding.weight": normal(WORDS, WIDTH, std=0.3)}
    tensors |= {"positional_embedding": normal(TOKENS, WIDTH, std=0.1), "text_projection": normal(WIDTH, WIDTH)}
    norms = ["ln_final"]
    for layer in range(LAYERS):
        block = f"transformer.resblocks.{layer}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        tensors[f"{block}.attn.in_proj_weight"] = normal(3 * WIDTH, WIDTH)
        tensors[f"{block}.attn.in_proj_bias"] = normal(3 * WIDTH, std=0.1)
        for name, rows, columns in (("attn.out_proj", 1, 1), ("mlp.c_fc", 4, 1), ("mlp.c_proj", 1, 4)):
            tensors[f"{block}.{name}.weight"] = normal(rows * WIDTH, columns * WIDTH)
            tensors[f"{block}.{name}.bias"] = normal(rows * WIDTH, std=0.1)
    for name in norms:
        tensors[f"{name}.weight"] = normal(WIDTH, mean=1.0, std=0.1)
        tensors[f"{name}.bias"] = normal(WIDTH, std=0.1)
    return {f"{LDM_TEXT}{name}": value for name, value in tensors.items()}
