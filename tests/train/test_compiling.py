"""torch.compile of the embedded base's layout, whose convolutions repeat their border: the same step as without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import rng, small_unet, small_vae
from support.training_runs import config, trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.train_memory import kept_gradients, start_off_zero
from dfosd_core.training.base import remove_self_attention, repeat_all_borders, replace_group_norms
from dfosd_core.training.compiling import compile_in_place, repeated
from dfosd_core.training.lora_layers import LoraLayer
from train_tools.small_base import save_part

takes_minutes = pytest.mark.skipif(
    "DFOSD_TEST_COMPILER" not in os.environ, reason="the compiler takes minutes: set DFOSD_TEST_COMPILER=1"
)


class Operations(TorchDispatchMode):
    """The names of all operations, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(  # as torch calls it
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def example(dtype: torch.dtype = torch.float32) -> Tensor:
    """A map (2, 5, 4, 3), channels last."""
    x = torch.randn(2, 5, 4, 3, generator=rng(), dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("padding", [(1, 1), (2, 0), (1, 3)])
def test_repeated_border_is_that_of_torch(padding: tuple[int, int]) -> None:
    down, across = padding
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda x: repeated(x, padding),
        lambda x: F.pad(x, (across, across, down, down), mode="replicate"),
    ]
    inputs = [example(torch.float64), example(torch.float64)]
    ours, theirs = (way(x) for way, x in zip(ways, inputs, strict=True))
    assert torch.equal(ours, theirs)
    weights = torch.randn(theirs.shape, generator=rng(1), dtype=torch.float64)
    for padded in (ours, theirs):
        (padded * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("rank", [1, 64])  # beside the layer, and merged into its weight
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_compiled_never_calls_the_operation_that_the_compiler_gets_wrong(rank: int, stride: int) -> None:
    conv = nn.Conv2d(5, 6, 3, stride, padding=1, padding_mode="replicate")
    layer = LoraLayer(conv, rank, 1.0, rng())
    nn.init.normal_(layer.up_weight)
    assert layer.merges(example()) == (rank == 64)
    found: list[tuple[Tensor, ...]] = []
    for _ in range(2):
        layer.zero_grad()
        x = example()
        with Operations() as seen:
            y = layer.forward(x)  # not through __call__: what would be compiled, uncompiled
            y.square().sum().backward()
        gradients = (x.grad, layer.up_weight.grad, layer.down_weight.grad)
        found.append((y.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)))
        assert len(found[-1]) == 4
        # Before, or the test would see nothing.
        assert ("replication_pad2d_backward" in seen.names) == (len(found) == 1)
        compile_in_place(layer)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert conv.padding_mode == "replicate", "the base's layout is read from it"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers as in the embedded base, but few."""
    folder = tmp_path_factory.mktemp("base")
    for name, network in (("unet", small_unet()), ("vae", small_vae())):
        replace_group_norms(network)
        remove_self_attention(network)
        repeat_all_borders(network)
        save_part(network, folder / name)
    return folder


@takes_minutes
@pytest.mark.parametrize("channels_last", [True, False])
def test_compiled_block_has_the_gradients_of_the_plain_one(channels_last: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 8, 3, stride, 1, padding_mode="replicate") for stride in (1, 2)]
    network: Any = nn.Sequential(LoraLayer(layers[0], 2, 1.0, rng()), nn.SiLU(), layers[1])
    nn.init.normal_(network[0].up_weight)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=memory_format)
    found: list[tuple[Tensor, ...]] = []
    for _ in range(2):
        network.zero_grad()
        x = torch.randn(2, 8, 6, 6, generator=rng()).to(memory_format=memory_format).requires_grad_()
        y = network(x)
        y.square().sum().backward()
        gradients = [p.grad for p in (x, *network.parameters())]
        found.append((y.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)))
        compile_in_place(network)
    torch.compiler.reset()
    assert len(found[0]) == 8
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@takes_minutes
@pytest.mark.timeout(900)
def test_step_of_compiled_networks_is_the_same_step(
    base: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of the compiler but the C++ that it writes, whose translation takes a quarter of an hour on a busy machine.
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: compile_(network, backend="aot_eager"))
    results: list[tuple[dict[str, float], dict[str, Tensor]]] = []
    for compiled in (False, True):
        settings = config(
            material,
            tmp_path / "out",
            model={"base": str(base)},
            data={"crop": 32, "batch_size": 2, "micro_batch": 2},
            loss={"adversarial_share": 0.5},  # a second backward pass
            optim={"clip": 0.0},
            run={"compile": compiled},
        )
        run = trainer(settings)
        for learner in run.recipe.learners().values():
            start_off_zero(learner.network)
        gradients = kept_gradients(run.recipe)
        values = run.recipe.train_step(0, next(run.batches()))
        results.append(({name: float(value) for name, value in values.items()}, gradients))
    torch.compiler.reset()
    (values, gradients), (compiled_values, compiled_gradients) = results
    assert compiled_values == pytest.approx(values, rel=1e-4)
    assert compiled_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        error = (compiled_gradients[name] - gradient).norm() / gradient.norm()
        assert error < 1e-4, f"{name}: {error}"
