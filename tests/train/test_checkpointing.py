"""Gradient checkpointing changes memory and time, and no gradient by a single bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import rng
from support.training_runs import config, trainer
from torch import Tensor

from dfosd_core.training.lora_layers import LoraLayer, trainable_parameters


def gradients(material: Path, out: Path, *, checkpointing: bool, precision: str) -> dict[str, dict[str, Tensor]]:
    """Of each network in one step of the generator and one of the discriminator, two micro-batches each."""
    changes: dict[str, Any] = {"data": {"micro_batch": 2}, "optim": {"clip": 0.0}}
    settings = config(material, out, run={"gradient_checkpointing": checkpointing, "precision": precision}, **changes)
    run = trainer(settings)
    found: dict[str, dict[str, Tensor]] = {}
    for name, learner in run.recipe.learners().items():
        layers = [module for module in learner.network.modules() if isinstance(module, LoraLayer)]
        for index, layer in enumerate(layers):  # at its start, zero, `up` lets no gradient through to `down`
            layer.up_weight.data = torch.randn(layer.up_weight.shape, generator=rng(index)) * 0.1

        def keep(*_: Any, name: str = name, network: torch.nn.Module = learner.network) -> None:
            named = network.named_parameters()
            found[name] = {key: p.grad.clone() for key, p in named if p.grad is not None}

        learner.optimizer.register_step_pre_hook(keep)
    run.recipe.train_step(0, next(run.batches()))
    for name, learner in run.recipe.learners().items():
        assert len(found[name]) == len(trainable_parameters(learner.network)), "one gradient for each, and no others"
    return found


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_gradients_of_both_networks_are_the_same_bits(material: Path, tmp_path: Path, precision: str) -> None:
    plain, checkpointed = (
        gradients(material, tmp_path / "out", checkpointing=on, precision=precision) for on in (False, True)
    )
    assert plain.keys() == checkpointed.keys() == {"generator", "discriminator"}
    for network, expected in plain.items():
        assert expected.keys() == checkpointed[network].keys()
        assert all(gradient.abs().max() > 0 for gradient in expected.values())
        assert all(torch.equal(gradient, checkpointed[network][name]) for name, gradient in expected.items())
