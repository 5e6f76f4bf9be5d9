"""The memory of each card's configuration: a whole training step of it against the estimate of memory_model.

A configuration is taken as it is, but for its base (random weights), VGG16 (zeros where none is given) and images
(noise). The first step makes the optimisers' moments and lets cuDNN choose; memory and time are the second one's.
`reserved` is what torch's allocator took from the card for it; CUDA's own context comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import cast

import torch
from accelerate import Accelerator

from train_tools.loop.networks import Networks
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import TrainConfig
from train_tools.settings.config_file import load_config

from ..memory_model import MetaNetworks, OneDevice, estimate
from ..train_memory import CARDS, CONFIGS
from .setting import Row, Setting
from .step import random_batch

COLUMNS = (
    "configuration",
    "micro-batch",
    "estimate, GiB",
    "measured, GiB",
    "reserved, GiB",
    "at most, GiB",
    "s a step",
)
NEAR = 0.1
"""An estimate is good if the measured peak is within this part of it."""
GIB = 2**30


def rows(setting: Setting) -> Generator[Row, None, None]:
    """Small cards first; one that the card has no room for is said."""
    for name, limit in list(CARDS.items())[:1] if setting.tiny else CARDS.items():
        config = _config(setting, name)
        expected = estimate(config, MetaNetworks(config, *setting.layout)).peak / GIB
        first = (name, f"{config.data.micro_batch}", f"{expected:.2f}")
        try:
            seconds, measured, reserved = _measure(config, setting)
        except torch.cuda.OutOfMemoryError:
            yield Row((*first, "does not fit on this card", "", f"{limit}", ""))
            continue
        finally:
            setting.empty()
        if setting.device.type != "cuda":
            yield Row((*first, "not counted on a CPU", "", f"{limit}", f"{seconds:.2f}"))
            continue
        ok = measured <= limit and abs(measured / expected - 1) < NEAR
        yield Row((*first, f"{measured:.2f}", f"{reserved:.2f}", f"{limit}", f"{seconds:.2f}"), ok)


def _config(setting: Setting, name: str) -> TrainConfig:
    # Held so on the meta device too.
    changes = [f"model.base={setting.base}", f"loss.vgg={setting.vgg or setting.zero_vgg}", "run.base_dtype=bfloat16"]
    if setting.tiny:
        changes += ["data.crop=16", "data.batch_size=2", "loss.perceptual=none"]
    return load_config(CONFIGS / f"{name}.yaml", changes)


def _measure(config: TrainConfig, setting: Setting) -> tuple[float, float, float]:
    """Seconds, and GiB at the peak: of tensors, and of the allocator."""
    setting.empty()
    recipe = Recipe(config, Networks(config, setting.device), cast("Accelerator", OneDevice(setting.device)))
    count = config.data.batch_size // config.data.micro_batch
    batches = [random_batch(config, index) for index in range(count)]
    recipe.train_step(0, batches)
    setting.empty()
    setting.wait()
    began = time.perf_counter()
    recipe.train_step(1, batches)
    setting.wait()
    seconds = time.perf_counter() - began
    if setting.device.type != "cuda":
        return seconds, 0.0, 0.0
    peaks = torch.cuda.max_memory_allocated(setting.device), torch.cuda.max_memory_reserved(setting.device)
    return seconds, peaks[0] / GIB, peaks[1] / GIB
