"""The ablation's pictures: differences with their intervals, the discriminators' losses, and crops to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from dfosd_core.attach import attached
from dfosd_core.hosts.own import fast_dtype, load_base
from dfosd_core.lora.file import load_lora
from dfosd_core.pipeline import UpscaleSettings

from ..loop.logbook import read_log
from ..loop.networks import base_path, make_dists
from ..loop.plots import CHANCE, smoothed
from ..loop.trainer import LAST_LORA
from ..scoring.pair_files import evenly, find_pairs
from ..scoring.pictures import SheetRow, contact_sheet
from ..scoring.validation import Method, bicubic, restored_by, score_pairs
from ..settings.config import TrainConfig
from .conclusions import Compared
from .gate import GATE
from .judges import JUDGES
from .runs import LABELS, START

PICTURE_ROWS = 4
PICTURE_CELL_PX = 192
Curves = dict[str, list[tuple[Sequence[int], Sequence[float]]]]
"""row -> steps and the discriminator's losses, for each seed."""


def plot(compared: Mapping[str, Compared], labels: Mapping[tuple[str, str], str], curves: Curves) -> Figure:
    """A panel for each set of pairs and judge: differences, points for seeds. Then the discriminators' losses."""
    panels = [
        (name, judge, {rows: judges[judge] for rows, judges in own.items() if judge in judges})
        for name, own in compared.items()
        for judge in JUDGES
        if any(judge in judges for judges in own.values())
    ]
    count = len(panels) + bool(curves)
    columns = min(3, max(1, count))
    lines = -(-count // columns) or 1
    figure = Figure(figsize=(5.6 * columns, 3.2 * lines), dpi=100, layout="constrained")
    axes: list[Any] = [figure.add_subplot(lines, columns, i + 1) for i in range(count)]
    for (name, judge, differences), one in zip(panels, axes, strict=False):
        for height, own in enumerate(reversed(differences.values())):
            one.plot(own.differences, [height] * len(own.differences), "o", color="C0", markersize=4)
            one.plot([own.low, own.high], [height, height], color="C0", linewidth=5, alpha=0.3)
            one.plot([own.mean], [height], "|", color="black", markersize=16)
        one.axvline(0, color="black", linestyle="--", linewidth=1)
        one.set_yticks(range(len(differences)), [labels[rows] for rows in reversed(differences)], fontsize=8)
        one.set_ylim(-0.6, len(differences) - 0.4)
        one.set(title=f"{name}: {judge}, left is better")
        one.grid(alpha=0.3)
    if curves:
        _draw_curves(axes[-1], curves)
    return figure


def _draw_curves(axes: Any, curves: Curves) -> None:
    for index, (row, seeds) in enumerate(curves.items()):
        for i, (steps, values) in enumerate(seeds):
            label = LABELS[row] if i == 0 else None
            axes.plot(steps, smoothed(np.asarray(values)), color=f"C{index}", label=label, linewidth=1.4)
    axes.axhline(CHANCE, color="black", linestyle="--", linewidth=1, label="chance, 2 ln 2")
    axes.axhline(GATE, color="grey", linestyle=":", linewidth=1, label="gate, of the held-out loss")
    axes.set(title="discriminator's loss in training", xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def discriminator_curves(out: Path, results: Mapping[str, Any]) -> Curves:
    """The rows that have a discriminator."""
    curves: Curves = {}
    for run in results["runs"]:
        log = read_log(out / f"seed{run['seed']}" / run["row"] / "metrics.jsonl")
        points = [(row["step"], row["loss/discriminator"]) for row in log if "loss/discriminator" in row]
        if points:
            steps, values = zip(*points, strict=True)
            curves.setdefault(run["row"], []).append((steps, values))
    return curves


def crops_picture(out: Path, rows: Sequence[str], seed: int, pairs: Path, config: TrainConfig) -> Image.Image:
    """Central crops of a few pairs, rows as columns, of one seed."""
    host, settings = load_base(base_path(config), fast_dtype("cpu")), UpscaleSettings()

    def restored(row: str) -> Method:
        lora = load_lora(out / f"seed{seed}" / row / LAST_LORA)

        def method(pair: Any) -> Any:
            with attached(host, lora, settings) as ready:
                return restored_by(ready, lora, settings)(pair)

        return method

    methods: dict[str, Method] = {"bicubic": bicubic}
    methods |= {LABELS[row]: restored(row) for row in rows if row != START}
    names = evenly(find_pairs(pairs), PICTURE_ROWS)
    _, shown = score_pairs(pairs, names, methods, make_dists(config, torch.float32))
    short = [SheetRow(images=row.images, captions=[c.replace("PSNR-Y ", "") for c in row.captions]) for row in shown]
    return contact_sheet(short, ("LR (nearest)", *methods, "HR"), PICTURE_CELL_PX)
