"""Scores as Markdown and CSV, ours and the published ones of the same protocol. Each table names set and protocol."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .metrics import FORMATS, METRICS, Scores
from .score_file import ScoreFile
from .sets import TestSet

PUBLISHED = Path(__file__).with_name("published.csv")
"""Figures out of papers: set, protocol, method, the metrics, the source, and what is to be known about it."""
ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """A published row."""

    method: str
    scores: Scores
    source: str
    note: str


def means(file: ScoreFile, names: Sequence[str]) -> dict[str, Scores]:
    """{method: {metric: mean}} of the methods that have a score for each image, with FID where there is one."""
    found: dict[str, Scores] = {}
    for method, scores in file.scores.items():
        if names and all(name in scores for name in names):
            metrics = [metric for metric in METRICS if metric in scores[names[0]]]
            found[method] = {metric: sum(scores[name][metric] for name in names) / len(names) for metric in metrics}
            found[method] |= file.set_scores.get(method, {})
    return found


def quoted_rows(test_set: TestSet) -> list[Quoted]:
    """Published rows of the same set and protocol; none unless all images of the set are there."""
    if not test_set.is_whole_benchmark:
        return []
    here = (test_set.name, test_set.protocol)
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["set"], row["protocol"]) == here]
    return [
        Quoted(
            method=row["method"],
            scores={metric: float(row[metric]) for metric in METRICS if row[metric]},
            source=row["source"],
            note=row["note"],
        )
        for row in rows
    ]


def columns_of(result: Mapping[str, Scores]) -> list[str]:
    """The metrics that at least one method has, in the order of tables."""
    return [metric for metric in METRICS if any(metric in scores for scores in result.values())]


def head_of(metric: str, images: int) -> str:
    """A column's title; FID is a figure of the set, so it names the set's size."""
    return f"FID ({images} images)" if metric == "FID" else metric


def cell(metric: str, scores: Scores) -> str:
    """A score as tables print it."""
    return FORMATS[metric](scores[metric]) if metric in scores else ABSENT


def markdown(result: Mapping[str, Scores], images: int, quoted: Sequence[Quoted] = ()) -> str:
    """A row for each method; quoted rows are marked and end with their source."""
    metrics = columns_of(result)
    lines = ["| method | " + " | ".join(head_of(metric, images) for metric in metrics) + (" | |" if quoted else " |")]
    lines.append("|---|" + "---|" * (len(metrics) + bool(quoted)))
    for method, scores in result.items():
        name = method.replace("|", "/")  # which would end the cell
        cells = [cell(metric, scores) for metric in metrics]
        lines.append(f"| {name} | " + " | ".join(cells) + (" | measured here |" if quoted else " |"))
    for row in quoted:
        cells = [cell(metric, row.scores) for metric in metrics]
        source = "; ".join(filter(None, [f"quoted: {row.source}", row.note]))
        lines.append(f"| *{row.method}* | " + " | ".join(cells) + f" | {source} |")
    return "\n".join(lines)


def as_csv(file: ScoreFile, test_set: TestSet) -> str:
    """A line for each method and image, with set and protocol. FID is no figure of an image and is left out."""
    text = io.StringIO()
    there = {metric for images in file.scores.values() for found in images.values() for metric in found}
    metrics = [metric for metric in METRICS if metric in there]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "protocol", "method", "image", *metrics])
    for method, scores in file.scores.items():
        for image, found in scores.items():
            row = [f"{found[metric]:.6f}" if metric in found else "" for metric in metrics]
            writer.writerow([test_set.name, test_set.protocol, method, image, *row])
    return text.getvalue()
