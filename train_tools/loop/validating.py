"""What a run is validated with: pairs, metrics, and the one metric by which the best LoRA is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from dfosd_core.errors import ConfigError
from dfosd_core.training.base import TrainingBase

from ..scoring.library import Library
from ..scoring.metrics import METRICS, Scores
from ..scoring.validation import TRAINING_METRICS, Validator
from ..settings.config import TrainConfig
from .networks import make_dists


def make_validator(
    config: TrainConfig, base: TrainingBase, pairs: Path, device: torch.device, say: Callable[[str], None]
) -> Validator:
    """say: gets a line for metrics that cannot be had. Raises ConfigError where the best is kept by one of them."""
    dists = make_dists(config, torch.float32)  # as `evaluate` has it, whatever the training's precision
    if dists is not None:
        dists.to(device)
    wanted = [*TRAINING_METRICS, *(["DISTS"] if dists is None else [])]
    library = Library.open(wanted, device, may_download=False, say=say)
    if best_metric(config) == "LPIPS" and "LPIPS" not in library.metrics:
        raise ConfigError("validation.best_by is LPIPS, which needs pyiqa and its weights. Set another metric.")
    count = config.validation.count
    return Validator(pairs, count, base.unet, base.vae, base.layout, dists, config.run.out, library)


def best_metric(config: TrainConfig) -> str:
    """The metric by which the best LoRA is kept: DISTS needs VGG16, and PSNR-Y stands in where there is none."""
    chosen = config.validation.best_by
    return "PSNR-Y" if chosen == "DISTS" and config.loss.vgg is None else chosen


def best_score(config: TrainConfig, scores: Scores) -> float:
    """By that metric; higher is better."""
    metric = best_metric(config)
    return scores[metric] if METRICS[metric].is_higher_better else -scores[metric]
