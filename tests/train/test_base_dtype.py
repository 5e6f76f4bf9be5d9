"""The frozen base in bfloat16: half the memory, the same results under autocast; all that trains stays float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import rng
from support.training_runs import config, trainer
from torch import Tensor, nn

from dfosd_core.errors import ConfigError
from dfosd_core.training.lora_layers import LoraLayer, trainable_parameters
from train_tools.loop.networks import base_dtype
from train_tools.loop.trainer import Trainer
from train_tools.settings.config import RunConfig


def run_with(base_dtype: str, material: Path, out: Path, **changes: Any) -> Trainer:
    return trainer(config(material, out, run={"precision": "bf16", "base_dtype": base_dtype}, **changes))


def step_of(run: Trainer) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Losses and gradients of the first step; the LoRAs start off zero."""
    gradients: list[Tensor] = []
    for learner in run.recipe.learners().values():
        for index, layer in enumerate(m for m in learner.network.modules() if isinstance(m, LoraLayer)):
            layer.up_weight.data = torch.randn(layer.up_weight.shape, generator=rng(index)) * 0.1

        def keep(*_: Any, network: nn.Module = learner.network) -> None:
            gradients.extend(p.grad.clone() for p in network.parameters() if p.grad is not None)

        learner.optimizer.register_step_pre_hook(keep)
    return run.recipe.train_step(0, next(run.batches())), gradients


@pytest.mark.parametrize("checkpointing", [False, True])
def test_results_under_autocast_are_the_same_bits(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    # A merged weight is rounded once with a float32 base and twice with this one.
    monkeypatch.setattr(LoraLayer, "merges", lambda *_: False)
    runs = [run_with(held, material, tmp_path / "out") for held in ("float32", "bfloat16")]
    if checkpointing:
        runs[1] = trainer(
            config(
                material,
                tmp_path / "out",
                run={"precision": "bf16", "base_dtype": "bfloat16", "gradient_checkpointing": True},
            )
        )
    (expected, plain), (actual, held) = map(step_of, runs)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    assert len(plain) == len(held) > 20
    assert all(torch.equal(*pair) for pair in zip(plain, held, strict=True))


def test_merged_weights_differ_by_rounding_alone(material: Path, tmp_path: Path) -> None:
    (expected, _), (actual, _) = (
        step_of(run_with(held, material, tmp_path / "out", discriminator={"kind": "none"}))
        for held in ("float32", "bfloat16")
    )
    torch.testing.assert_close(actual["loss/mse"], expected["loss/mse"], rtol=2e-2, atol=0)


def test_weights_are_held_in_bfloat16_and_all_that_trains_in_float32(material: Path, tmp_path: Path) -> None:
    run = run_with("bfloat16", material, tmp_path / "out")
    networks = run.networks
    assert networks.discriminator is not None
    for network in (networks.generator, networks.discriminator):
        frozen = [p for p in network.parameters() if not p.requires_grad]
        assert all(p.dtype == (torch.bfloat16 if p.ndim > 1 else torch.float32) for p in frozen)
        assert {p.dtype for p in trainable_parameters(network)} == {torch.float32}
    run.recipe.train_step(0, next(run.batches()))
    for learner in run.recipe.learners().values():
        moments = [value for state in learner.optimizer.state.values() for value in state.values()]
        assert {value.dtype for value in moments} == {torch.float32}
    z = torch.zeros(1, 4, 8, 8)
    with run.recipe.autocast():
        assert networks.generator.predict(z).dtype == networks.generator.decode(z).dtype == torch.float32


def test_validation_leaves_every_bit_of_the_base(material: Path, tmp_path: Path) -> None:
    run = run_with("bfloat16", material, tmp_path / "out", validation={"pairs": material / "pairs"})
    assert run.validator is not None
    base = run.networks.base
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    scores = run.validator.run(run.lora(), 0)
    assert scores["PSNR-Y"] > 5
    assert all(torch.equal(value, before[name]) for name, value in base.unet.state_dict().items())
    shared = {parameter.data_ptr() for parameter in base.unet.parameters() if parameter.ndim > 1}
    own = {parameter.data_ptr() for parameter in run.validator.host.unet.parameters()}
    assert shared <= own, "the weights are there once"


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("bf16", "cuda", torch.bfloat16),
        ("bf16", "mps", torch.bfloat16),
        ("bf16", "cpu", torch.float32),
        ("no", "cuda", torch.float32),
        ("fp16", "cuda", torch.float32),
    ],
)
def test_automatic_format(precision: Any, device: str, expected: torch.dtype) -> None:
    assert base_dtype(RunConfig(precision=precision), torch.device(device)) == expected


def test_bfloat16_base_without_autocast_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.base_dtype: bfloat16 needs run\.precision bf16 or fp16, found no"):
        RunConfig(precision="no", base_dtype="bfloat16")
