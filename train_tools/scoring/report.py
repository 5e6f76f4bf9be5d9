"""The report: one HTML file that needs no network, with the tables, every image's scores and pictures to compare."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfosd_core.image_files import is_image_name

from .metrics import METRICS, Scores
from .pair_files import by_stem
from .pictures import image_size, opened
from .score_file import ScoreFile
from .sets import SCALE, TestSet
from .tables import Quoted, cell, columns_of, head_of
from .validation import evenly

TEMPLATE = Path(__file__).with_name("report.html")
VIEW_PX = 640
"""Larger pictures are cut to their middle: reduced, they would not show what the methods differ in."""
PICTURES = 24
"""Images shown: a third of them the worst, a third the best, the others evenly from between."""
TOTAL_BYTES = 20 * 2**20
"""Of all pictures; when it is reached, no more images are shown."""
WEBP_QUALITY = 85
RANKED_BY = ("DISTS", "LPIPS", "MUSIQ", "SSIM-Y", "PSNR-Y", "NIQE")
"""The first of these that was measured decides what is worst and best."""
INPUT, REFERENCE = "Input", "Reference"


def html_report(
    test_set: TestSet, file: ScoreFile, result: Mapping[str, Scores], quoted: Sequence[Quoted], run: Mapping[str, Any]
) -> str:
    """The report as text. result: the means of the methods that are shown."""
    methods = list(result)
    metrics = [metric for metric in columns_of(result) if metric != "FID"]
    first = "DFOSD" if "DFOSD" in result else methods[-1]
    ranked = next((metric for metric in RANKED_BY if metric in metrics), metrics[0])
    shown = choose({name: file.scores[first][name][ranked] for name in test_set.lr}, ranked)
    pictures = dict(_pictures(test_set, {m: file.folders[m] for m in methods if m in file.folders}, shown))
    data = {
        "metrics": [
            {"name": m, "decimals": METRICS[m].decimals, "isHigherBetter": METRICS[m].is_higher_better} for m in metrics
        ],
        "methods": methods,
        "first": first,
        "ranked": ranked,
        "images": {
            name: {m: [_number(file.scores[m][name], k) for k in metrics] for m in methods} for name in test_set.lr
        },
        "pictures": pictures,
        "input": INPUT,
        "reference": REFERENCE,
    }
    parts = {
        "title": html.escape(f"{test_set.name}, protocol {test_set.protocol}"),
        "caption": html.escape(test_set.caption.replace("`", "")),
        "means": _means_table(result, len(test_set.lr), quoted),
        "rule": html.escape(_rule(len(pictures), len(test_set.lr), first, ranked)),
        "run": html.escape(json.dumps({**run, "methods": {m: file.settings[m] for m in methods}}, indent=1)),
        "data": json.dumps(data).replace("<", "\\u003c"),
    }
    # In one go: what is put in may hold such marks, too.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], TEMPLATE.read_text(encoding="utf-8"))


def choose(scores: Mapping[str, float], metric: str, count: int = PICTURES) -> list[str]:
    """Names of at most `count` images: the worst, the best, and some from between, in turn."""
    order = sorted(scores, key=lambda name: scores[name], reverse=not METRICS[metric].is_higher_better)
    if len(order) <= count:
        return order
    third = count // 3
    groups = order[:third], order[::-1][:third], evenly(order[third:-third], count - 2 * third)
    return [name for three in zip(*groups, strict=True) for name in three]


def _pictures(
    test_set: TestSet, folders: Mapping[str, Path], names: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, {label: data address}) until the size is reached. A folder that is gone has no pictures."""
    sides = {INPUT: test_set.lr, **({REFERENCE: test_set.hr} if test_set.hr else {})}
    there = {method: folder for method, folder in folders.items() if folder.is_dir()}
    sides |= {method: by_stem(folder) for method, folder in there.items() if any(map(is_image_name, folder.iterdir()))}
    total = 0
    for name in names:
        width, height = image_size(test_set.lr[name])
        scale = max(1, round(image_size(test_set.hr[name])[0] / width)) if test_set.hr else SCALE
        view = [min(edge, VIEW_PX // scale) for edge in (width, height)]
        box = [(width - view[0]) // 2, (height - view[1]) // 2]
        found: dict[str, str] = {}
        for label, files in sides.items():
            if name in files:
                factor = 1 if label == INPUT else scale
                left, top, across, down = (factor * edge for edge in (*box, *view))
                found[label] = data_address(files[name], (left, top, left + across, top + down))
        total += sum(map(len, found.values()))
        if total > TOTAL_BYTES:
            return
        yield name, found


def data_address(path: Path, box: tuple[int, int, int, int]) -> str:
    """A part of an image file as a WebP in a `data:` address."""
    target = io.BytesIO()
    with opened(path) as image:
        image.convert("RGB").crop(box).save(target, "WEBP", quality=WEBP_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(target.getvalue()).decode()


def _means_table(result: Mapping[str, Scores], images: int, quoted: Sequence[Quoted]) -> str:
    metrics = columns_of(result)
    arrows = {metric: "↑" if METRICS[metric].is_higher_better else "↓" for metric in metrics}
    head = "".join(f"<th scope=col>{html.escape(head_of(m, images))} {arrows[m]}</th>" for m in metrics)
    rows = [f"<tr><th scope=col>Method</th>{head}<th scope=col>Source</th></tr>"]
    sources = [(name, scores, "", "measured here") for name, scores in result.items()]
    for row in quoted:
        source = f"<b>quoted</b>: {html.escape(row.source)}<br>{html.escape(row.note)}"
        sources.append((row.method, row.scores, " class=quoted", source))
    for name, scores, mark, source in sources:
        cells = "".join(f"<td>{cell(metric, scores)}</td>" for metric in metrics)
        rows.append(f"<tr{mark}><th scope=row>{html.escape(name)}</th>{cells}<td>{source}</td></tr>")
    return "\n".join(rows)


def _rule(shown: int, images: int, first: str, ranked: str) -> str:
    chosen = f"{shown} of {images} images: the worst and the best of {first} by {ranked}, and some from between"
    which = "all images" if shown == images else chosen
    return (
        f"Pictures: {which}. Of pictures wider or higher than {VIEW_PX} pixels their middle is shown, at full "
        f"resolution; WebP at quality {WEBP_QUALITY}."
    )


def _number(scores: Scores, metric: str) -> float | str | None:
    value = scores.get(metric)
    return str(value) if value in (float("inf"), float("-inf")) or value != value else value
