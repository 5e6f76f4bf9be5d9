"""One training step on the card against the CPU in float32: losses, and the gradients of both networks.

SD 2.1's layout with random weights, one crop of 128 pixels, generator and NAD, with DISTS where VGG16 is given. The
LoRAs start off zero, so that every one of their layers has a gradient. Noise is drawn on the CPU, alike for both.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from train_tools.data.crops import MicroBatch
from train_tools.loop.networks import Networks
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import DataConfig, LossConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig

from ..memory_model import OneDevice
from ..train_memory import kept_gradients, start_off_zero
from .setting import Row, Setting, exact, relative_error

COLUMNS = ("what", "format", "base", "checkpointing", "relative error", "allowed")


class Way(NamedTuple):
    """How a step is computed."""

    precision: Any
    base_dtype: Any
    checkpointing: bool
    allowed: float
    """Relative error of the losses (a CPU in bfloat16: 1.5e-2). Gradients may have twice that (CPU: 2.4e-2)."""


WAYS = (
    Way("no", "float32", False, 1e-3),
    Way("no", "float32", True, 1e-3),
    Way("bf16", "float32", False, 5e-2),
    Way("bf16", "bfloat16", False, 5e-2),
    Way("bf16", "bfloat16", True, 5e-2),
)


class Result(NamedTuple):
    """Of a step."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]
    """By network, all of them as one vector on the CPU."""


def rows(setting: Setting) -> Generator[Row, None, None]:
    """Each way of computing against the CPU's float32."""
    expected = take(setting, torch.device("cpu"), WAYS[0])
    for way in WAYS[::4] if setting.tiny else WAYS:
        with exact(torch.float32):
            found = take(setting, setting.device, way)
        ours, theirs = (torch.tensor([*result.losses.values()]) for result in (found, expected))
        yield _row(way, f"{len(ours)} losses", relative_error(ours, theirs), way.allowed)
        for name, gradient in expected.gradients.items():
            words = f"{name}: {len(gradient):,} gradients"
            yield _row(way, words, relative_error(found.gradients[name], gradient), 2 * way.allowed)
        del found
        setting.empty()


def _row(way: Way, what: str, error: float, allowed: float) -> Row:
    held, again = way.base_dtype, "on" if way.checkpointing else "off"
    precision = "float32" if way.precision == "no" else "bfloat16"
    return Row((what, precision, held, again, f"{error:.2g}", f"{allowed:g}"), error <= allowed)


def take(setting: Setting, device: torch.device, way: Way) -> Result:
    """Build the networks and take one step."""
    config = TrainConfig(
        model=ModelConfig(base=str(setting.base)),
        data=DataConfig(crop=32 if setting.tiny else 128, batch_size=1, micro_batch=1, workers=0),
        loss=LossConfig(perceptual="ea_dists" if setting.vgg else "none", vgg=setting.vgg),
        optim=OptimConfig(steps=1, clip=0.0),
        run=RunConfig(precision=way.precision, base_dtype=way.base_dtype, gradient_checkpointing=way.checkpointing),
    )
    networks = Networks(config, device)
    recipe = Recipe(config, networks, cast("Accelerator", OneDevice(device)))
    for learner in recipe.learners().values():
        start_off_zero(learner.network)
    gradients = kept_gradients(recipe)
    values = recipe.train_step(0, [random_batch(config, 0)])
    losses = {name: float(value) for name, value in values.items() if name.startswith("loss/")}
    return Result(losses, {name: _joined(gradients, name) for name in recipe.learners()})


def random_batch(config: TrainConfig, index: int) -> MicroBatch:
    """Micro-batch `index` of images that are noise on a slope."""
    data, rng = config.data, torch.Generator().manual_seed(index)
    slope = torch.linspace(-0.5, 0.5, data.crop).expand(data.micro_batch, 3, data.crop, data.crop)
    x_hr = slope + 0.3 * (torch.rand(slope.shape, generator=rng) - 0.5)
    x_lr = slope + 0.3 * (torch.rand(slope.shape, generator=rng) - 0.5)
    return MicroBatch(list(range(index * data.micro_batch, (index + 1) * data.micro_batch)), x_lr, x_hr)


def _joined(gradients: dict[str, Tensor], network: str) -> Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if name.startswith(f"{network}.")])
