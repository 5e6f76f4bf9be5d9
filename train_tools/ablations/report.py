"""The ablation as a table, a plot and a picture, from OUT/results.json and the runs beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure

from dfosd_core.attach import attached
from dfosd_core.errors import ConfigError
from dfosd_core.files import write_text
from dfosd_core.hosts.own import fast_dtype, load_base
from dfosd_core.lora.file import load_lora
from dfosd_core.pipeline import UpscaleSettings

from ..loop.logbook import read_log
from ..loop.networks import base_path, make_dists
from ..loop.plots import CHANCE, smoothed, to_image
from ..loop.trainer import LAST_LORA
from ..scoring.metrics import FORMATS
from ..scoring.pair_files import evenly, find_pairs
from ..scoring.pictures import SheetRow, contact_sheet, save_picture
from ..scoring.validation import Method, bicubic, restored_by, score_pairs
from ..settings.config import TrainConfig
from .runs import LABELS, START

PICTURE_ROWS = 4
PICTURE_CELL_PX = 192

Results = dict[str, Any]
"""What `scores.evaluate_runs` writes."""
Curves = dict[str, list[tuple[Sequence[int], Sequence[float]]]]
"""row -> steps and the discriminator's losses, for each seed."""


def write_report(out: Path, pairs: Mapping[str, Path], config: TrainConfig) -> str:
    """Write OUT/table.md, plot.png and crops.png; return the table."""
    found = out / "results.json"
    if not found.exists():
        raise ConfigError(f"There is no '{found}' to report. Run the ablation without --report first.")
    results: Results = json.loads(found.read_text())
    text = "\n\n".join(f"{name}:\n\n{table(results, name)}" for name in results["bicubic"])
    write_text(out / "table.md", text + "\n")
    save_picture(to_image(plot(results, discriminator_curves(out, results))), out / "plot.png")
    first = next(iter(pairs.values()))
    save_picture(picture(out, results, first, config), out / "crops.png")
    return text


def rows_of(results: Results) -> list[str]:
    """The rows there are, in the table's order."""
    return [row for row in LABELS if any(run["row"] == row for run in results["runs"])]


def values_of(results: Results, row: str, pairs: str, metric: str) -> dict[int, float]:
    """seed -> score."""
    runs = (run for run in results["runs"] if run["row"] == row)
    return {run["seed"]: run["scores"][pairs][metric] for run in runs if metric in run["scores"][pairs]}


def table(results: Results, pairs: str) -> str:
    """Mean +- sample standard deviation over the seeds, and the difference to the row above, seed by seed."""
    metrics = [metric for metric in FORMATS if metric in results["bicubic"][pairs]]
    has_discriminator = any("L_D" in run["scores"][pairs] for run in results["runs"])
    heads = ["loss", *metrics, *(f"{metric}, to the row above" for metric in metrics if metric != "SSIM-Y")]
    heads += ["held-out L_D"] if has_discriminator else []
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---|" * (len(heads) - 1)]
    plain = [FORMATS[metric](results["bicubic"][pairs][metric]) for metric in metrics]
    lines.append("| " + " | ".join(["bicubic", *plain, *("" for _ in heads[1 + len(metrics) :])]) + " |")
    above: str | None = None
    for row in rows_of(results):
        cells = [spread(list(values_of(results, row, pairs, metric).values()), metric) for metric in metrics]
        cells += [_difference(results, row, above, pairs, metric) for metric in metrics if metric != "SSIM-Y"]
        cells += [spread(list(values_of(results, row, pairs, "L_D").values()), "L_D")] if has_discriminator else []
        lines.append("| " + " | ".join([LABELS[row], *cells]) + " |")
        above = row
    return "\n".join(lines)


def spread(values: Sequence[float], metric: str, sign: str = "") -> str:
    """`mean +- standard deviation`, the latter from two values on; empty for none."""
    if not values:
        return ""
    digits = {"PSNR-Y": 2, "L_D": 3}.get(metric, 4)
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _difference(results: Results, row: str, above: str | None, pairs: str, metric: str) -> str:
    if above is None:
        return ""
    ours, theirs = (values_of(results, one, pairs, metric) for one in (row, above))
    return spread([ours[seed] - theirs[seed] for seed in ours if seed in theirs], metric, sign="+")


def discriminator_curves(out: Path, results: Results) -> Curves:
    """The rows that have a discriminator."""
    curves: Curves = {}
    for run in results["runs"]:
        log = read_log(out / f"seed{run['seed']}" / run["row"] / "metrics.jsonl")
        points = [(row["step"], row["loss/discriminator"]) for row in log if "loss/discriminator" in row]
        if points:
            steps, values = zip(*points, strict=True)
            curves.setdefault(run["row"], []).append((steps, values))
    return curves


def plot(results: Results, curves: Curves) -> Figure:
    """PSNR-Y against DISTS (or SSIM-Y), a point for each seed; then the discriminators' losses over steps."""
    names = list(results["bicubic"])
    count = len(names) + bool(curves)
    figure = Figure(figsize=(5.6 * count, 4.6), dpi=100, layout="constrained")
    axes: list[Any] = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for name, one in zip(names, axes, strict=False):
        _draw_points(one, results, name)
    if curves:
        _draw_curves(axes[-1], curves, rows_of(results))
    return figure


def _draw_points(axes: Any, results: Results, pairs: str) -> None:
    plain = results["bicubic"][pairs]
    other = "DISTS" if "DISTS" in plain else "SSIM-Y"
    shown: list[tuple[float, float]] = []
    for index, row in enumerate(rows_of(results)):
        x, y = (list(values_of(results, row, pairs, metric).values()) for metric in (other, "PSNR-Y"))
        axes.scatter(x, y, s=18, color=f"C{index}")
        axes.scatter([np.mean(x)], [np.mean(y)], s=110, color=f"C{index}", alpha=0.35, label=LABELS[row])
        shown += zip(x, y, strict=True) if row != START else ()
    label = f"bicubic ({plain[other]:.4f}, {plain['PSNR-Y']:.2f})"
    axes.scatter([plain[other]], [plain["PSNR-Y"]], marker="x", color="black", label=label)
    # Bicubic and start may lie far away; what is compared here are the rows.
    low, high = np.min(shown, axis=0), np.max(shown, axis=0)
    margin = np.maximum(0.15 * (high - low), (5e-4, 0.02))
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    hint = " (less is better)" if other == "DISTS" else ""
    axes.set(title=f"{pairs}: small points are seeds, large ones means", xlabel=other + hint, ylabel="PSNR-Y (dB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_curves(axes: Any, curves: Curves, rows: Sequence[str]) -> None:
    for row, seeds in curves.items():
        for i, (steps, values) in enumerate(seeds):
            colour, label = f"C{rows.index(row)}", LABELS[row] if i == 0 else None
            axes.plot(steps, smoothed(values), color=colour, label=label, linewidth=1.4)
    axes.axhline(CHANCE, color="black", linestyle="--", linewidth=1, label="chance, 2 ln 2")
    axes.set(title="discriminator's loss in training", xlabel="step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def picture(out: Path, results: Results, pairs: Path, config: TrainConfig) -> Any:
    """Central crops of a few pairs, rows as columns, of the first seed."""
    host, settings = load_base(base_path(config), fast_dtype("cpu")), UpscaleSettings()
    dists = make_dists(config, torch.float32)
    seed = min(run["seed"] for run in results["runs"])
    rows = [row for row in rows_of(results) if row != START]
    names = evenly(find_pairs(pairs), PICTURE_ROWS)

    def restored(row: str) -> Method:
        lora = load_lora(out / f"seed{seed}" / row / LAST_LORA)

        def method(pair: Any) -> Any:
            with attached(host, lora, settings) as ready:
                return restored_by(ready, lora, settings)(pair)

        return method

    methods: dict[str, Method] = {"bicubic": bicubic} | {LABELS[row]: restored(row) for row in rows}
    _, shown = score_pairs(pairs, names, methods, dists)
    short = [SheetRow(images=row.images, captions=[c.replace("PSNR-Y ", "") for c in row.captions]) for row in shown]
    titles = ("LR (nearest)", "bicubic", *(label.removeprefix("MSE ") for label in list(methods)[1:]), "HR")
    return contact_sheet(short, cast("Sequence[str]", titles), PICTURE_CELL_PX)
