"""The same networks with fewer multiplications, while their weights, timestep and prompt stay what they are.

- Nearest upsampling and a 3x3 convolution are one transposed convolution of 4x4: each output value then takes four
  products a channel instead of nine, and the enlarged map is never made.
- The timestep's part of a residual block, the same at every place, goes into its first convolution's bias, and so does
  the norm after it where that has no statistics (the embedded base).
- Keys and values of the prompt are computed once.

All of it is exact but for rounding. What is folded lies beside the weights, which nobody changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .layers import Attention, FirstHalf, Resnet, Upsample
from .norms import ChannelAffine
from .unet import TransformerBlock, Unet
from .vae import Vae

_TAPS = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))
"""Which taps of a convolution over a map of doubled values fall on each tap of the transposed one over the map."""


@contextmanager
def folded(unet: Unet, vae: Vae, t: int, prompt_embeds: Tensor) -> Iterator[None]:
    """Let the networks take the shorter way inside the `with` block, in which no weight may change.

    The UNet takes it at step `t` with the very tensor `prompt_embeds` (1, N, context_dim), else its usual one.
    """
    try:
        with torch.no_grad():
            for network in (unet, vae):
                fold_upsampling(network)
            _fold_constants(unet, t, prompt_embeds)
            _fold_residual_blocks(vae, None)
        yield
    finally:
        unfold(unet)
        unfold(vae)


def unfold(network: nn.Module) -> None:
    """Let it take its usual way again."""
    for layer in network.modules():
        if isinstance(layer, Upsample | Resnet | Attention):
            layer.folded = None
        elif isinstance(layer, Unet):
            layer.folded_for = None


def fold_upsampling(network: nn.Module) -> None:
    """Where it is known to be faster: on a CPU it takes 4/9 of the time; not measured elsewhere."""
    for layer in network.modules():
        if isinstance(layer, Upsample) and layer.conv.weight.device.type in ("cpu", "meta"):
            layer.folded = transposed_kernel(layer.conv.weight)


def transposed_kernel(weight: Tensor) -> Tensor:
    """A convolution's (O, I, 3, 3) -> the transposed convolution's (I, O, 4, 4), in the same format."""
    taps = torch.tensor(_TAPS, dtype=torch.float32, device=weight.device)
    kernel = torch.einsum("uh,oihw,vw->iouv", taps, weight.float(), taps)
    return kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last)


def _fold_constants(unet: Unet, t: int, prompt_embeds: Tensor) -> None:
    _fold_residual_blocks(unet, unet.time_embedding(t, prompt_embeds))
    for layer in unet.modules():
        if isinstance(layer, TransformerBlock):
            layer.attn2.folded = layer.attn2.keys_and_values(prompt_embeds)
    unet.folded_for = (t, prompt_embeds)


def _fold_residual_blocks(network: nn.Module, time: Tensor | None) -> None:
    for layer in network.modules():
        if not isinstance(layer, Resnet) or (time is None and not isinstance(layer.norm2, ChannelAffine)):
            continue
        weight, norm = layer.conv1.weight.detach(), layer.norm2
        assert layer.conv1.bias is not None
        bias = layer.conv1.bias.detach().float()
        if time is not None and layer.time_emb_proj is not None:
            bias = bias + layer.time_emb_proj(time)[0].float()
        if isinstance(norm, ChannelAffine):
            bias = bias * norm.weight.float() + norm.bias.float()
            weight = (weight.float() * norm.weight.float()[:, None, None, None]).to(weight.dtype)
            norm = nn.Identity()
        layer.folded = FirstHalf(weight, bias.to(weight.dtype), norm)
