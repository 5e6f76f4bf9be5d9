"""Curves of a training run as a picture. Only this file and `ablations/plot.py` know matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

CHANCE = 2 * math.log(2)
"""L_D of a discriminator that cannot tell real from fake."""
SMOOTH = 25
"""Curves are the mean over at most this many rows; the single rows are drawn pale."""
Series = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Name -> steps and values."""


class Panel(NamedTuple):
    """One diagram of loss.png."""

    title: str
    curves: dict[str, str]
    """Series -> label."""
    log: bool = False
    lines: dict[str, float] = {}  # noqa: RUF012 - never written
    """Label -> height of a dashed line, drawn where there is a curve."""


PANELS = (
    Panel(
        "generator",
        {
            "loss/generator": "total",
            "loss/mse": "MSE",
            "loss/perceptual": "perceptual",
            "loss/adversarial": "adversarial",
            "loss/cycle": "cycle",
            "loss/direction": "direction",
        },
        log=True,
    ),
    Panel(
        "discriminator",
        {"loss/discriminator": "real + fake", "loss/d_real": "real", "loss/d_fake": "fake"},
        lines={"chance, 2 ln 2": CHANCE},
    ),
    Panel("gradient norm", {"grad/generator": "generator", "grad/discriminator": "discriminator"}, log=True),
    Panel("learning rate", {"lr/generator": "generator", "lr/discriminator": "discriminator"}, log=True),
    Panel("held-out PSNR-Y (dB)", {"val/PSNR-Y": "DFOSD", "bicubic/PSNR-Y": "bicubic"}),
    Panel("held-out SSIM-Y", {"val/SSIM-Y": "DFOSD", "bicubic/SSIM-Y": "bicubic"}),
    *(
        Panel(
            f"held-out {metric}{'' if is_higher_better else ' (less is better)'}",
            {f"val/{metric}": "DFOSD", f"bicubic/{metric}": "bicubic"},
        )
        for metric, is_higher_better in (("DISTS", False), ("LPIPS", False), ("NIQE", False), ("MUSIQ", True))
    ),
)


def draw_run(series: Series) -> Image.Image:
    """All panels that have something to show."""
    panels = [panel for panel in PANELS if any(name in series for name in panel.curves)]
    columns = min(4 if len(panels) > 6 else 3, max(1, len(panels)))
    rows = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), dpi=100, layout="constrained")
    last = max((steps[-1] for steps, _ in series.values()), default=1)
    for i, panel in enumerate(panels):
        axes: Any = figure.add_subplot(rows, columns, i + 1)
        _draw(axes, panel, series)
        axes.set_xlim(0, max(last, 1) * 1.02)  # the same steps in every panel
    return to_image(figure)


def to_image(figure: Figure) -> Image.Image:
    """The drawn figure, without pyplot's state and without a display."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _draw(axes: Any, panel: Panel, series: Series) -> None:
    for index, (name, label) in enumerate(panel.curves.items()):
        if name not in series:
            continue
        steps, values = (np.asarray(part, dtype=np.float64) for part in series[name])
        colour = f"C{index}"
        if name.startswith(("val/", "bicubic/", "lr/")):
            style = {"linestyle": "--"} if name.startswith("bicubic/") else {"marker": "." if len(steps) < 40 else ""}
            axes.plot(steps, values, color=colour, label=label, **cast("dict[str, Any]", style))
        else:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smoothed(values), color=colour, label=label, linewidth=1.6)
    for label, height in panel.lines.items():
        axes.axhline(height, color="black", linestyle="--", linewidth=1, label=label)
    positive = all(min(series[name][1], default=1.0) > 0 for name in panel.curves if name in series)
    if panel.log and positive:
        axes.set_yscale("log")
    axes.set(title=panel.title, xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def smoothed(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The mean of each value and its neighbours: SMOOTH rows, fewer in short runs and at both ends."""
    array = np.asarray(values, dtype=np.float64)
    half = min(SMOOTH, max(1, len(array) // 8)) // 2
    total = np.concatenate([[0.0], np.cumsum(array)])
    ends = np.arange(len(array))
    low, high = np.maximum(ends - half, 0), np.minimum(ends + half + 1, len(array))
    return (total[high] - total[low]) / (high - low)
