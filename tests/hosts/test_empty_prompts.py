"""The empty prompt: the activations of both text encoders, and the names that WebUIs have for their tensors."""

from __future__ import annotations

import pytest
import torch
from support.fakes.webui import text_encoder
from support.peers import empty_prompt, encoder_tensors, openclip_tensors
from torch.nn import functional as F
from transformers.activations import ACT2FN

from dfosd_core.hosts.webui.text_encoder import empty_prompt_of
from dfosd_core.networks.text_encoder import SD1_WIDTH, _activation


def test_activation_is_that_of_the_encoders_maker() -> None:
    """OpenAI's approximation in SD 1.x, as transformers has it; OpenCLIP's is GELU itself."""
    x = torch.linspace(-6, 6, 1201)
    quick = ACT2FN["quick_gelu"](x)
    torch.testing.assert_close(_activation(x, SD1_WIDTH), quick)
    torch.testing.assert_close(_activation(x, 1024), F.gelu(x))
    assert (quick - F.gelu(x)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["a1111", "forge", "reforge"])
def test_prompt_from_a_webuis_encoder_is_that_of_transformers(kind: str) -> None:
    """A1111 has OpenCLIP's names, the others transformers'; all begin otherwise than a file's."""
    encoder = text_encoder(kind, openclip_tensors() if kind == "a1111" else encoder_tensors())
    torch.testing.assert_close(empty_prompt_of(encoder, "x"), empty_prompt(), rtol=0, atol=1e-5)
