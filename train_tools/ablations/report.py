"""The ablation in words and tables, from OUT/results.json: OUT/report.md, and the pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfosd_core.errors import ConfigError
from dfosd_core.files import write_text

from ..loop.plots import to_image
from ..scoring.metrics import FORMATS
from ..scoring.pictures import save_picture
from ..settings.config import TrainConfig
from .conclusions import conclusions
from .gate import ENDED, JOINED
from .judges import AUC, JUDGES, SATURATED, judges_of
from .plot import crops_picture, discriminator_curves, plot
from .runs import COMPARISONS, LABELS
from .statistics import Paired, paired

REPORT = "report.md"
Results = dict[str, Any]
"""What `scores.evaluate_runs` writes."""


def write_report(out: Path, pairs: Mapping[str, Path], config: TrainConfig) -> str:
    """Write OUT/report.md, plot.png and crops.png; return the report."""
    found = out / "results.json"
    if not found.exists():
        raise ConfigError(f"There is no '{found}' to report. Run the ablation without --report first.")
    results: Results = json.loads(found.read_text())
    text = report(results)
    write_text(out / REPORT, text + "\n")
    compared = {name: all_compared(results, name) for name in results["bicubic"]}
    labels = {pair: f"{LABELS[pair[0]]} - {LABELS[pair[1]]}" for pair in COMPARISONS}
    save_picture(to_image(plot(compared, labels, discriminator_curves(out, results))), out / "plot.png")
    first = next(iter(pairs.values()))
    save_picture(crops_picture(out, rows_of(results), min(seeds_of(results)), first, config), out / "crops.png")
    return text


def report(results: Results) -> str:
    """All of report.md."""
    used = sorted({name for scores in results["bicubic"].values() for name in judges_of(results["perceptual"], scores)})
    parts = [
        f"{results['steps']} steps a row, seeds {', '.join(map(str, seeds_of(results)))}. The adversarial gradient's "
        f"norm is {results['share']:g} of the other terms' in every row with a discriminator, at every step. Loss "
        f"besides: MSE{'' if results['perceptual'] == 'none' else ' + ' + results['perceptual']}.",
        "Judges, all better when smaller: " + "; ".join(f"{name}: {JUDGES[name].meaning}" for name in used) + ".",
    ]
    gates = gate(results)
    for name in results["bicubic"]:
        compared = all_compared(results, name)
        said = [*conclusions(compared, gates, LABELS), *saturated(results, name)]
        tables = scores_table(results, name), differences_table(compared)
        parts += [f"## {name}", *tables, "\n".join(f"- {line}" for line in said)]
    return "\n\n".join(parts)


def seeds_of(results: Results) -> list[int]:
    """All seeds, in order."""
    return sorted({run["seed"] for run in results["runs"]})


def rows_of(results: Results) -> list[str]:
    """The rows there are, in the table's order."""
    return [row for row in LABELS if any(run["row"] == row for run in results["runs"])]


def values_of(results: Results, row: str, pairs: str, metric: str) -> dict[int, float]:
    """seed -> score."""
    runs = (run for run in results["runs"] if run["row"] == row)
    return {run["seed"]: run["scores"][pairs][metric] for run in runs if metric in run["scores"][pairs]}


def gate(results: Results) -> dict[str, list[float]]:
    """Row -> its discriminator's held-out loss where it joined, for each seed, on the first pairs."""
    first = next(iter(results["bicubic"]))
    found = {row: values_of(results, row, first, JOINED) for row in rows_of(results)}
    return {row: [values[seed] for seed in sorted(values)] for row, values in found.items() if values}


def saturated(results: Results, pairs: str) -> list[str]:
    """A sentence where the classifier is always right, whatever it judges."""
    values = (list(values_of(results, row, pairs, AUC).values()) for row in rows_of(results))
    means = [float(np.mean(own)) for own in values if own]
    if not means or min(means) < SATURATED:
        return []
    return [f"The classifier tells all rows from photographs (AUC {min(means):.4f} or more): AUC decides nothing here."]


def all_compared(results: Results, pairs: str) -> dict[tuple[str, str], dict[str, Paired]]:
    """(First, second) -> judge -> their differences on the seeds that both have."""
    found: dict[tuple[str, str], dict[str, Paired]] = {}
    for rows in COMPARISONS:
        for judge in judges_of(results["perceptual"], results["bicubic"][pairs]):
            first, second = (values_of(results, row, pairs, judge) for row in rows)
            both = sorted(first.keys() & second.keys())
            if both:
                own = paired([first[seed] for seed in both], [second[seed] for seed in both])
                found.setdefault(rows, {})[judge] = own
    return found


def scores_table(results: Results, pairs: str) -> str:
    """Mean +- sample standard deviation over the seeds, of every score and of the discriminators' losses."""
    plain, photographs = results["bicubic"][pairs], results["photographs"][pairs]
    known = [name for name in dict.fromkeys((*FORMATS, *JUDGES)) if name in plain]
    names = [*known, *(name for name in (JOINED, ENDED) if any(name in r["scores"][pairs] for r in results["runs"]))]
    lines = [_line(["row", *names]), "|---" * (len(names) + 1) + "|"]
    lines.append(_line(["bicubic", *(spread([plain[name]] if name in plain else [], name) for name in names)]))
    floor = (spread([photographs[name]] if name in photographs else [], name) for name in names)
    lines.append(_line(["the photographs themselves", *floor]))
    for row in rows_of(results):
        cells = [spread(list(values_of(results, row, pairs, name).values()), name) for name in names]
        lines.append(_line([LABELS[row], *cells]))
    return "\n".join(lines)


def differences_table(compared: Mapping[tuple[str, str], Mapping[str, Paired]]) -> str:
    """Each comparison by each judge."""
    heads = ("difference", "judge", "mean ± deviation", "95 % interval (t)", "seeds better", "sign test, p")
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for (first, second), judges in compared.items():
        for name, own in judges.items():
            digits, count = JUDGES[name].decimals, len(own.differences)
            interval = f"{own.low:+.{digits}f} to {own.high:+.{digits}f}" if count > 1 else ""
            cells = [f"{LABELS[first]} - {LABELS[second]}", name, spread(own.differences, name, sign="+"), interval]
            lines.append(_line([*cells, f"{own.better} of {count}", f"{own.sign_p:.3f}"]))
    return "\n".join(lines)


def spread(values: Sequence[float], name: str, sign: str = "") -> str:
    """`mean +- standard deviation`, the latter from two values on; empty for none."""
    if not values:
        return ""
    digits = JUDGES[name].decimals if name in JUDGES else {"PSNR-Y": 2, JOINED: 3, ENDED: 3}.get(name, 4)
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
