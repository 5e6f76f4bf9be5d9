"""What a base does at each timestep with pairs as they are, and what a short training there makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image
from torch import Tensor

from dfosd_core import images
from dfosd_core.errors import ConfigError
from dfosd_core.host import Host
from dfosd_core.one_step import predict_z_sr

from ..scoring.metrics import Scores, psnr_y
from ..scoring.pair_files import Pair
from ..scoring.validation import bicubic
from ..settings.config import TrainConfig
from .logbook import read_log
from .networks import initial_prompt
from .plots import to_image
from .validating import best_metric

PROMPT_TOKENS = 77


@torch.inference_mode()
def measure(host: Host, base: Path, pairs: Sequence[Pair], grid: Sequence[int]) -> dict[int, Scores]:
    """{t: {error, target, PSNR-Y}}, means over the pairs; see `train_tools.timestep`. The base is used as it is.

    Raises ConfigError for pairs that the base's networks cannot take whole.
    """
    prompt = initial_prompt(base, PROMPT_TOKENS, host.layout.context_dim, torch.Generator().manual_seed(0))
    rows: dict[int, list[tuple[float, float, float]]] = {t: [] for t in grid}
    for pair in pairs:
        x_hr, x_lr = (_cropped(x, host.size_multiple_px, pair.name) for x in (pair.x_hr, bicubic(pair)))
        z_hr, z_lr = (host.encode(images.to_signed(x)).float() for x in (x_hr, x_lr))
        nothing, zero = (z_lr - z_hr).square().mean(), torch.zeros_like(z_lr)
        for t in grid:
            eps = host.predict_eps(z_lr, t, prompt.to(z_lr.device)).float()
            z_sr = predict_z_sr(z_lr, eps, t)
            # The equation is affine in eps, so it can be solved for the eps that gives z_hr.
            offset, gain = (predict_z_sr(z, e, t) for z, e in ((z_lr, zero), (zero, zero - 1)))
            target = (offset - z_hr) / gain
            x_sr = images.to_unit(host.decode(z_sr).float()).clamp(0, 1)
            error = (z_sr - z_hr).square().mean() / nothing
            rows[t].append((float(error), float(target.square().mean().sqrt()), psnr_y(x_sr, x_hr)))
    means = {t: np.mean(values, axis=0) for t, values in rows.items()}
    return {t: dict(zip(("error", "target", "PSNR-Y"), map(float, mean), strict=True)) for t, mean in means.items()}


def _cropped(x: Tensor, multiple: int, name: str) -> Tensor:
    height, width = (edge // multiple * multiple for edge in x.shape[-2:])
    if not height or not width:
        raise ConfigError(f"The pair '{name}' is smaller than {multiple} pixels. Make larger ones.")
    return x[..., :height, :width]


def trained_score(config: TrainConfig) -> tuple[str, float]:
    """The metric and the score of a finished run's last validation, by its log."""
    metric = best_metric(config)
    rows = [row for row in read_log(config.run.out / "metrics.jsonl") if row.get(f"val/{metric}") is not None]
    if not rows:
        raise ConfigError(f"'{config.run.out}' has no validation by {metric}. Give another --out.")
    return metric, float(rows[-1][f"val/{metric}"])


def best(found: Mapping[int, Scores], column: str, *, is_higher_better: bool) -> int:
    """The timestep with the best value of a column."""
    sign = 1 if is_higher_better else -1
    return max(found, key=lambda t: sign * found[t][column])


def draw(found: Mapping[int, Scores], timestep: int) -> Image.Image:
    """A curve for each column over t; a dotted line at the configuration's own `timestep`."""
    columns = list(next(iter(found.values())))
    titles = {
        "error": "latent error of the base's own answer (1: doing nothing)",
        "target": "RMS of the eps that gives z_hr (the UNet gives 1)",
        "PSNR-Y": "PSNR-Y of the base's own answer, dB",
    }
    figure = Figure(figsize=(5.2 * len(columns), 3.8), dpi=100, layout="constrained")
    for index, column in enumerate(columns):
        values = [row[column] for row in found.values()]
        axes: Any = figure.add_subplot(1, len(columns), index + 1)
        axes.plot(list(found), values, marker="o", color=f"C{index}")
        axes.axvline(timestep, color="black", linestyle=":", linewidth=1, label=f"model.timestep={timestep}")
        if column in ("error", "target"):
            axes.axhline(1, color="black", linestyle="--", linewidth=1)
        if column == "error":
            # Late timesteps are tens of times worse than doing nothing, and would flatten what is to be seen.
            least, reach = min(values), max(0.1, 1 - min(values))
            axes.set_ylim(least - 0.1 * reach, 1 + 2 * reach)
        if column == "target":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(title=titles.get(column, f"{column} on held-out pairs"), xlabel="timestep t")
        axes.title.set_fontsize(10)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return to_image(figure)
