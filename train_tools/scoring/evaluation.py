"""Scoring a set: every method's image of every sample by every metric that can be had here, kept as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfosd_core.training.dists import Dists

from .library import SET_METRIC, Library
from .metrics import METRICS, Scores, score
from .pair_files import Pair, Sample, evenly
from .pictures import SheetRow
from .score_file import ScoreFile
from .sets import TestSet, digest
from .sources import Source
from .validation import SHEET_ROWS, caption_of

Report = Callable[[str, Mapping[str, Scores]], None]
"""Gets each image's name and {method: scores}."""


class Meter:
    """PSNR-Y, SSIM-Y and, with VGG16's convolutions, DISTS by our own code; all else by pyiqa where it can be had.

    vgg, alpha_beta: files for DISTS. device: of all metrics' networks. say: gets one line for what is left out.
    """

    def __init__(
        self,
        vgg: Path | None,
        alpha_beta: Path | None,
        device: torch.device,
        *,
        has_references: bool,
        may_download: bool,
        say: Callable[[str], None],
    ) -> None:
        self.dists = Dists.from_files(vgg, alpha_beta).to(device) if vgg else None
        wanted = [
            name
            for name, metric in METRICS.items()
            if metric.pyiqa and (has_references or not metric.needs_reference) and not (name == "DISTS" and vgg)
        ]
        self.library = Library.open(wanted, device, may_download=may_download, say=say)
        self.by: dict[str, str] = {"PSNR-Y": "dfosd", "SSIM-Y": "dfosd"} if has_references else {}
        """{metric: what computes it}"""
        if vgg and has_references:
            self.by["DISTS"] = f"dfosd, VGG16 {digest([vgg])[:12]}"
        self.by |= {name: f"pyiqa {self.library.version}, {METRICS[name].pyiqa}" for name in self.library.metrics}

    def score(self, image: Tensor, sample: Sample) -> Scores:
        """All but FID of an image (1, 3, H, W) in [0, 1]."""
        reference = sample.x_hr if isinstance(sample, Pair) else None
        found = score(image, reference, self.dists) if reference is not None else {}
        return found | self.library.score(image, reference, sample.name)


def run_of(test_set: TestSet, meter: Meter) -> dict[str, Any]:
    """What all scores of a file have in common."""
    return {
        "set": test_set.name,
        "protocol": test_set.protocol,
        "images": len(test_set.lr),
        "set_sha256": test_set.digest(),
        "metrics": meter.by,
    }


def score_all(
    test_set: TestSet, sources: Mapping[str, Source], meter: Meter, file: ScoreFile, report: Report | None = None
) -> None:
    """Bring `file` up to a score for each method and image; what it has is not computed again."""
    for method, source in sources.items():
        if method not in file.settings:
            source.forget(list(test_set.lr))
        file.start(method, source.settings(), source.folder)
    for name in test_set.lr:
        missing = [method for method in sources if name not in file.scores[method]]
        if not missing:
            continue
        sample = test_set.read(name)
        for method in missing:
            file.add(method, name, meter.score(sources[method].image(sample), sample))
        if report:
            report(name, {method: file.scores[method][name] for method in sources})
    if SET_METRIC not in meter.by or len(test_set.lr) < 2:
        return
    for method in (method for method in sources if method not in file.set_scores):
        images = [sources[method].path(name) for name in test_set.lr]
        fid = meter.library.fid(images, list(test_set.hr.values()))
        file.add_set(method, len(images), {SET_METRIC: fid})


def sheet_rows(test_set: TestSet, sources: Mapping[str, Source], file: ScoreFile) -> list[SheetRow]:
    """Rows LR | methods | HR (where there is one) of evenly chosen images."""
    rows: list[SheetRow] = []
    for name in evenly(list(test_set.lr), SHEET_ROWS):
        sample = test_set.read(name)
        images = [sample.x_lq, *(source.image(sample) for source in sources.values())]
        if isinstance(sample, Pair):
            images.append(sample.x_hr)
        rows.append(
            SheetRow(images=images, captions=[name, *(caption_of(file.scores[method][name]) for method in sources)])
        )
    return rows
