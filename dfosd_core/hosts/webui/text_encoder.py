"""The empty prompt from the text encoder of a checkpoint that a WebUI has loaded.

The WebUI's own way to embed a text follows the user's settings (CLIP skip, emphasis, textual inversion) and moves
networks between memories. The empty text needs none of that: our own encoder reads the weights where they lie.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ...networks.text_encoder import empty_prompt
from ...tensor_files import LDM_TEXT

_FIRST_TENSORS = (
    (re.compile(r"(.*)transformer\.resblocks\.0\.ln_1\.weight"), LDM_TEXT),  # OpenCLIP's names, in A1111
    (re.compile(r"(.*)text_model\.encoder\.layers\.0\.layer_norm1\.weight"), ""),  # transformers', in Forge and reForge
)
"""A tensor that tells how all names of its network begin, and how they do in a file."""
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
_USED_LAYERS = 23
"""Of ViT-H's 24: Forge holds these, reForge all. Names of OpenCLIP always come with the last one. SD 1.x has 12."""
_AROUND_EMBEDDINGS = "wrapped."
"""All WebUIs put a module of their own around the token embedding, for textual inversion."""


@torch.no_grad()
def empty_prompt_of(encoder: nn.Module, checkpoint: str) -> Tensor:
    """(1, 77, width) float32 on the CPU. Nothing of `encoder` is called, moved or changed.

    Raises BaseModelMismatchError, naming `checkpoint`, where `encoder` is none of Stable Diffusion 1.x or 2.x.
    """
    weights = {key.replace(_AROUND_EMBEDDINGS, ""): value for key, value in encoder.state_dict().items()}
    found = ((match[1], start) for pattern, start in _FIRST_TENSORS for key in weights if (match := pattern.match(key)))
    theirs, ours = next(found, ("", ""))
    named = {f"{ours}{key.removeprefix(theirs)}": value for key, value in weights.items() if key.startswith(theirs)}
    return empty_prompt({key: value.cpu() for key, value in named.items() if _is_used(key)}, checkpoint)


def _is_used(key: str) -> bool:
    number = _LAYER.match(key)
    return number is None or int(number[1]) < _USED_LAYERS
