"""The memory of a training step on a CUDA card, estimated without one.

The step runs on torch's meta device, where tensors have sizes and no values. Each tensor's storage is counted from the
operation that makes it to its end, so the peak is what torch's allocator would have to give. Autocast is imitated with
CUDA's lists, and attention as the fused kernel, which keeps no map. Not counted: CUDA's context (about 0.5 GiB),
workspaces of cuDNN, and what the allocator loses by fragments.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
import torch.utils.checkpoint
from accelerate import Accelerator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dfosd_core.networks.sd_configs import Config, unet_config, vae_config
from dfosd_core.training.base import TrainingBase, build_unet, build_vae, hold_in, layout_of
from train_tools.data.crops import MicroBatch
from train_tools.loop.networks import Networks
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import TrainConfig

META = torch.device("meta")
GRAIN = 512
"""torch's allocator gives multiples of this many bytes."""
LOWER = {"conv2d", "linear", "matmul", "__matmul__", "mm", "addmm", "bmm", "baddbmm", "scaled_dot_product_attention"}
FLOAT32 = {"group_norm", "layer_norm", "softmax", "mse_loss", "softplus", "pow", "exp", "log", "norm", "sum", "prod"}
"""Of CUDA's autocast lists what a step calls."""


class Peak(TorchDispatchMode):
    """Counts the bytes of the meta device's storages."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def watch(self, tensor: Tensor) -> None:
        """Count its storage from now on, once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // GRAIN) * GRAIN  # pyright: ignore[reportPrivateUsage]
        if tensor.device != META or key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.watch(tensor)
        return result


class CudaAutocast(TorchFunctionMode):
    """Casts the arguments of operations as autocast on CUDA does, while `dtype` is set."""

    dtype: torch.dtype | None = None

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if self.dtype is not None and name in LOWER | FLOAT32:
            dtype = self.dtype if name in LOWER else torch.float32
            args, kwargs = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, (args, kwargs))
        if name == "scaled_dot_product_attention":
            return _FusedAttention.apply(*args[:3])
        return func(*args, **cast("dict[str, Any]", kwargs))

    @contextmanager
    def set(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Inside the `with` block."""
        before, self.dtype = self.dtype, dtype
        try:
            yield
        finally:
            self.dtype = before

    @contextmanager
    def in_place_of_torchs(self) -> Iterator[None]:
        """torch.autocast sets this one, and gradient checkpointing runs again as it ran first."""
        run_twice = torch.utils.checkpoint.checkpoint

        def autocast(_device: str, dtype: torch.dtype | None = None, enabled: bool = True) -> Any:
            return self.set(dtype if enabled else None)

        def checkpoint(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            dtype, calls = self.dtype, count()

            def either(*inner: Any) -> Any:
                # The second call comes from inside `backward`, where function modes rest.
                with self if next(calls) else nullcontext(), self.set(dtype):
                    return function(*inner)

            return run_twice(either, *args, **options)

        in_place = (
            mock.patch.object(torch, "autocast", autocast),
            mock.patch.object(torch.utils.checkpoint, "checkpoint", checkpoint),
        )
        with in_place[0], in_place[1], self:
            yield


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, *_ = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class MetaNetworks(Networks):
    """On the meta device, whatever `model.base` says. unet, vae: the base's layout, by default SD 2.1's."""

    def __init__(self, config: TrainConfig, unet: Config | None = None, vae: Config | None = None) -> None:
        self._layout = unet or unet_config(), vae or vae_config()
        super().__init__(config, META)

    def _read_base(self, path: Path) -> TrainingBase:
        unet, vae = build_unet(self._layout[0]), build_vae(self._layout[1])
        for network in (unet, vae):
            hold_in(cast("nn.Module", network), self.base_dtype)
        self._prepare(unet, vae)
        return TrainingBase(unet, vae, layout_of(unet, vae, "epsilon"))


class Estimate(NamedTuple):
    """Bytes of a run."""

    rest: int
    """Networks and optimisers between two steps."""
    peak: int
    """Largest in a step."""


class OneDevice:
    """What a recipe asks of accelerate's Accelerator, of which a process can have one kind only."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare_model(self, network: nn.Module) -> nn.Module:
        """No wrapper."""
        return network

    def no_sync(self, _network: nn.Module) -> Any:
        """No other process."""
        return nullcontext()


def estimate(config: TrainConfig, networks: Networks) -> Estimate:
    """Memory of `networks`, which are on the meta device, and of a step with all terms of `config`.

    It takes two micro-batches at most, since a third needs no more than the second.
    """
    peak, data, last = Peak(), config.data, config.optim.steps - 1
    recipe = Recipe(config, networks, cast("Accelerator", OneDevice(META)))
    for module in (networks.base.vae, networks.generator, networks.discriminator, networks.perceptual):
        for tensor in (*module.parameters(), *module.buffers()) if isinstance(module, nn.Module) else ():
            peak.watch(tensor)
    batches = [_batch(config, index) for index in range(min(2, data.batch_size // data.micro_batch))]
    with CudaAutocast().in_place_of_torchs(), peak:
        for learner in recipe.learners().values():  # makes the optimisers' moments
            for parameter in learner.parameters:
                parameter.grad = torch.zeros_like(parameter)
            learner.step(last)
        rest = peak.now
        peak.peak = rest
        recipe.train_step(last, batches)
    return Estimate(rest, peak.peak)


def _batch(config: TrainConfig, index: int) -> MicroBatch:
    count, crop = config.data.micro_batch, config.data.crop
    x = torch.empty(count, 3, crop, crop)
    return MicroBatch(list(range(index * count, (index + 1) * count)), x, x.clone())
