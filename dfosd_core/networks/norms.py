"""What keeps the embedded small base's sight finite: normalisation without statistics, and no self-attention.

GroupNorm's statistics run over the whole map, so a tile is normalised differently from the image it was cut from
and tiled output differs from untiled output. The small base was therefore trained with each GroupNorm replaced by
the affine map it ends with, and does without self-attention, which sees the whole map. Its receptive field is finite,
and tiles with enough overlap give the untiled image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """`y = x * weight + bias` per channel: GroupNorm's parameters, under GroupNorm's names, without its statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, ...) to the same shape and dtype."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return torch.addcmul(bias.view(shape), x, weight.view(shape))


def replace_group_norms(module: nn.Module) -> int:
    """Replace every GroupNorm below `module` by a ChannelAffine of the same state-dict names; return how many."""
    replaced = 0
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, ChannelAffine(child.num_channels))
            replaced += 1
        else:
            replaced += replace_group_norms(child)
    return replaced


class NoAttention(nn.Module):
    """Stands in for a self-attention that was taken out: adds nothing to its input and costs nothing."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """A zero that fits any shape, in x's dtype."""
        return x.new_zeros(())


def remove_self_attention(module: nn.Module) -> int:
    """Replace every self-attention (`attn1`) below `module` by NoAttention; return how many."""
    blocks = [block for block in module.modules() if isinstance(getattr(block, "attn1", None), nn.Module)]
    for block in blocks:
        block.attn1 = NoAttention()
    return len(blocks)
