"""A network whose number format overflows goes on in one with more range: a result never has a black square."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..networks.folding import unfold

logger = logging.getLogger("dfosd")

NetworkT = TypeVar("NetworkT", bound=nn.Module)
NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


class WiderOnOverflow:
    """Runs a network; where the result is not finite, a copy of it in a wider format, then and until `reset`.

    The copy is taken of the weights as they are, with the LoRA that is merged into them, so `reset` when that leaves.
    name: of the network, for people.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._copy: nn.Module | None = None

    def __call__(self, network: NetworkT, run: Callable[[NetworkT], Tensor]) -> Tensor:
        """`run(network)`, not finite only if float32 isn't either. Values on the meta device are not looked at."""
        running: NetworkT = network if self._copy is None else self._copy  # pyright: ignore[reportAssignmentType]
        y = run(running)
        while not _is_finite(y) and (dtype := wider_format(running)) is not None:
            narrow = NAMES[_weight(running).dtype]
            logger.warning("The %s overflowed in %s and goes on in %s.", self._name, narrow, NAMES[dtype])
            running = self._copy = in_format(network, dtype)
            y = run(running)
        return y

    def reset(self) -> None:
        """Forget the copy."""
        self._copy = None


def wider_format(network: nn.Module) -> torch.dtype | None:
    """The next one with more range: bfloat16 where a graphics card multiplies it, else float32, then none."""
    weight = _weight(network)
    if weight.dtype == torch.float16 and weight.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None if weight.dtype == torch.float32 else torch.float32


def in_format(network: NetworkT, dtype: torch.dtype) -> NetworkT:
    """A copy of `network` with its parameters in another format, not folded."""
    with torch.no_grad():
        parameters = {id(p): nn.Parameter(p.to(dtype), requires_grad=False) for p in network.parameters()}
        twin = copy.deepcopy(network, parameters)
    unfold(twin)
    return twin


def _weight(network: nn.Module) -> Tensor:
    return next(network.parameters())


def _is_finite(y: Tensor) -> bool:
    return y.is_meta or bool(y.isfinite().all())
