"""Trainable LoRA layers over frozen weights: W x + alpha / rank * up(down(x)), on `lora.names.LORA_TARGETS`.

A rank near the layer's width makes that branch dearer than the layer itself. Then W + alpha / rank * up @ down is made
first, and one convolution does both; `LoraLayer.merges` decides for each call. A step of the embedded base (rank 96, 8
crops of 96, bfloat16, one thread of an AMD EPYC) then takes 1.17 CPU seconds instead of 1.31 with MSE alone, and 2.52
instead of 2.68 with EA-DISTS.

Our own layers and not peft's, which make a step slower and change its numbers. The branch measured against peft on
2026-11-28 with one thread on one of two cores of an Intel Xeon with AMX, busy (torch 2.13.0, peft 0.21.2): the step of
`configs/small_cpu.yaml` (crop 96, batch 4) in CPU seconds, least and median of 24 steps taken in turns, in brackets the
median ratio to ours:

    autocast    ours         peft                  peft, its casts of inputs off
    bfloat16    0.395 0.418  0.444 0.466 (x1.11)   0.410 0.429 (x1.03)
    none        0.844 0.935  0.877 0.948 (x1.02)   0.897 0.962 (x1.03)

From the same matrices the losses of a first step are equal. Some 15 of 168 gradients are not (by up to 2e-7 of the
largest value, in bfloat16 6e-3), probably from another order of summation: peft calls the base layer first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..lora.file import LoraPair
from ..lora.names import kohya_name, lora_target_names

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class LoraLayer(nn.Module):
    """A frozen layer and its trainable low-rank change; `down` starts Kaiming uniform, `up` zero."""

    def __init__(self, base: nn.Conv2d | nn.Linear, rank: int, lora_alpha: float, rng: torch.Generator) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        if isinstance(base, nn.Conv2d):
            size, stride, padding = (cast("tuple[int, int]", v) for v in (base.kernel_size, base.stride, base.padding))
            self.down: nn.Module = nn.Conv2d(base.in_channels, rank, size, stride, padding, bias=False, device=device)
            self.up: nn.Module = nn.Conv2d(rank, base.out_channels, 1, bias=False, device=device)
        else:
            self.down = nn.Linear(base.in_features, rank, bias=False, device=device)
            self.up = nn.Linear(rank, base.out_features, bias=False, device=device)
        self.lora_alpha = float(lora_alpha)
        self.scaling = self.lora_alpha / rank
        with torch.no_grad():
            # The bound of kaiming_uniform_(a=sqrt(5)), torch's own start of a layer.
            bound = self.down_weight[0].numel() ** -0.5
            start = torch.rand(self.down_weight.shape, generator=rng, device=rng.device)
            self.down_weight.copy_(start * (2 * bound) - bound)
            self.up_weight.zero_()

    @property
    def down_weight(self) -> nn.Parameter:
        """(rank, in) or (rank, in, kh, kw)."""
        return cast("nn.Parameter", self.down.weight)

    @property
    def up_weight(self) -> nn.Parameter:
        """(out, rank) or (out, rank, 1, 1)."""
        return cast("nn.Parameter", self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map x as the base layer does, plus the low-rank change."""
        if self.merges(x):
            return self._with_weight(x, self.merged_weight())
        change = self.up(self.down(x))
        return self.base(x) + (change if self.scaling == 1.0 else change * self.scaling)

    def merges(self, x: Tensor) -> bool:
        """Whether W + alpha / rank * up @ down, made anew in each call, takes fewer multiplications than the branch.

        Forward and backward passes are counted. Merged, a trained layer takes one gradient of the base's whole weight
        instead of the branch's three passes; so a rank near the layer's width merges, and SD 2.1's at rank 16 does not.
        Depends on shapes and on what trains alone: gradient checkpointing decides again in the backward pass.
        """
        rank, row = self.down_weight.shape[0], self.down_weight[0].numel()
        whole, branch = row * self.up_weight.shape[0], rank * (row + self.up_weight.shape[0])
        places, trains = self._places(x), self.up_weight.requires_grad
        return trains * places * whole + (1 + 2 * trains) * rank * whole < (2 + trains) * places * branch

    def _places(self, x: Tensor) -> int:
        """Positions of the output, over the batch."""
        base = self.base
        if isinstance(base, nn.Linear):
            return x.numel() // x.shape[-1]
        down, across = cast("tuple[int, int]", base.stride)
        return x.shape[0] * -(-x.shape[-2] // down) * -(-x.shape[-1] // across)

    def merged_weight(self) -> Tensor:
        """W + alpha / rank * up @ down in float32, in W's memory format; gradients reach up and down."""
        weight, down, up = self.base.weight, self.down_weight, self.up_weight
        with torch.autocast(weight.device.type, enabled=False):
            if weight.ndim == 2:
                return torch.addmm(weight.float(), up, down, alpha=self.scaling)
            # Rows in the order in which channels-last weights lie in memory: views there, and no copies.
            rows, narrow = weight.float().movedim(1, -1), down.movedim(1, -1)
            product = torch.addmm(rows.flatten(1), up.flatten(1), narrow.flatten(1), alpha=self.scaling)
            return product.view(rows.shape).movedim(-1, 1)

    def _with_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        base = self.base
        if isinstance(base, nn.Linear):
            return F.linear(x, weight, base.bias)
        stride, padding = (cast("tuple[int, int]", v) for v in (base.stride, base.padding))
        return F.conv2d(x, weight, base.bias, stride, padding)

    def pair(self, dtype: torch.dtype) -> LoraPair:
        """A detached copy of the two matrices, as the LoRA file holds them."""
        down, up = (weight.detach().to(dtype, copy=True) for weight in (self.down_weight, self.up_weight))
        return LoraPair(down=down, up=up, alpha=self.lora_alpha)


def inject_lora(network: nn.Module, rank: int, lora_alpha: float, rng: torch.Generator) -> int:
    """Freeze `network` and wrap each of its LoRA targets in a LoraLayer, in place; return how many."""
    network.requires_grad_(False)
    names = lora_target_names(network)
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = cast("nn.Conv2d | nn.Linear", network.get_submodule(name))
        # setattr also serves a ModuleList's or Sequential's numbered children.
        setattr(network.get_submodule(parent), child, LoraLayer(layer, rank, lora_alpha, rng))
    return len(names)


def lora_pairs(unet: nn.Module, dtype: torch.dtype) -> dict[str, LoraPair]:
    """kohya layer name -> pair, for every LoraLayer of `unet`."""
    modules = unet.named_modules()
    return {kohya_name(name): layer.pair(dtype) for name, layer in modules if isinstance(layer, LoraLayer)}


def share_weights(module: ModuleT) -> ModuleT:
    """Copy the layers, to wrap, and share the tensors: two networks on one base hold it once, also after `.to`."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that get gradients: of a generator or a `Nad` all but the base's."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through `network` but not into its parameters, inside the `with` block."""
    trainable = trainable_parameters(network)
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def new_prompt(tokens: int, context_dim: int, rng: torch.Generator) -> Tensor:
    """A start for a learnable prompt embedding: (1, tokens, context_dim) ~ N(0, 0.02^2), as OSCAR has it."""
    return torch.randn(1, tokens, context_dim, generator=rng, device=rng.device) * 0.02
