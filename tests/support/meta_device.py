"""A training step on torch's meta device: shapes and no numbers, so that what a GPU would have to wait for shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.memory_model import META, CudaAutocast, OneDevice
from train_tools.data.crops import MicroBatch
from train_tools.loop.networks import Networks
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import TrainConfig

if TYPE_CHECKING:
    from typing_extensions import Self

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)


class Traffic(TorchDispatchMode):
    """Notes copies from the CPU to the meta device, and refuses operations that mix the two.

    Reading a value back needs no watch: a meta tensor has none, and torch raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocking: list[str] = []
        """Copies to the device that the CPU waits for, by shape."""
        self.queued: list[str] = []
        """Copies to the device that nobody waits for."""
        self._made = _MadeFromNumbers(self.blocking)

    def __enter__(self) -> Self:
        self._made.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        # torch takes a number's tensor from the CPU anywhere, as a kernel's argument.
        kinds = {x.device.type for x in tensors if x.ndim or x.device.type != "cpu"}
        result = func(*args, **kwargs)
        if any(x.dtype == torch.float64 and x.device == META for x in tree_leaves(result) if isinstance(x, Tensor)):
            raise AssertionError(f"{func} makes float64, which MPS does not have")
        if func in COPIES:
            self._note_copy(func, args, result, tuple(tensors[-1].shape), kwargs)
        elif len(kinds) > 1:
            raise AssertionError(f"{func} mixes devices: {[(x.device.type, tuple(x.shape)) for x in tensors]}")
        elif kinds == {"meta"} and any(x.device != META for x in tree_leaves(result) if isinstance(x, Tensor)):
            raise AssertionError(f"{func} leaves the device")
        return result

    def _note_copy(
        self, func: Any, args: Sequence[Any], result: Tensor, shape: tuple[int, ...], options: Mapping[str, Any]
    ) -> None:
        source = cast("Tensor", args[-1] if func is COPIES[0] else args[1])
        if source.device.type == result.device.type:
            return
        if result.device != META:
            raise AssertionError(f"A tensor of {shape} is read back from the device.")
        queued = options.get("non_blocking", False) or (func is COPIES[1] and len(args) > 2 and args[2])
        (self.queued if queued else self.blocking).append(str(shape))


class _MadeFromNumbers(TorchFunctionMode):
    """Notes tensors that are made on the device from Python's numbers: their copy is hidden from a dispatch mode."""

    MAKERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)

    def __init__(self, blocking: list[str]) -> None:
        super().__init__()
        self.blocking = blocking

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self.MAKERS and result.device == META:
            numbers = args[1] if func is Tensor.new_tensor else args[0]
            if not isinstance(numbers, Tensor):
                self.blocking.append(str(tuple(result.shape)))
        return result


def recipe_on_meta(config: TrainConfig, networks: Networks | None = None) -> Recipe:
    """The networks of `config`, or those given, without values, and what moves them."""
    return Recipe(config, networks or Networks(config, META), cast("Accelerator", OneDevice(META)))


def batch_of(config: TrainConfig, first: int = 0) -> MicroBatch:
    """One micro-batch on the CPU, as the loader gives it."""
    count, crop = config.data.micro_batch, config.data.crop
    x = torch.zeros(count, 3, crop, crop)
    return MicroBatch(list(range(first, first + count)), x, x.clone())


def traffic_of_a_step(recipe: Recipe, micro_batches: int) -> Traffic:
    """What one step copies."""
    batches = [batch_of(recipe.config, index * recipe.config.data.micro_batch) for index in range(micro_batches)]
    with CudaAutocast().in_place_of_torchs(), Traffic() as traffic:
        report = recipe.train_step(0, batches)
    assert all(value.device == META for value in report.values())
    return traffic
