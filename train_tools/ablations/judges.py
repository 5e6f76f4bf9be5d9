"""The judges of an ablation: distances that no row was trained on, all of them better when they are smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dfosd_core.training.dists import Dists

from ..scoring.library import Library
from ..scoring.metrics import Scores, mean, score
from .classifier import classifier_auc
from .niqe import niqe_distance
from .pictures import Result
from .spectrum import spectrum_distance


class Judge(NamedTuple):
    """What a table says of a judge."""

    decimals: int
    meaning: str


JUDGES = {
    "LPIPS": Judge(4, "pyiqa's, AlexNet; left out where pyiqa or its weights are not there"),
    "DISTS": Judge(4, "with the given VGG16; no judge where a row's loss contains it"),
    "NIQE-fit": Judge(
        3, "NIQE with its pristine model fitted on half of the photographs, for results of the other half"
    ),
    "AUC": Judge(4, "of a fresh classifier of results and photographs, on photographs it was not trained on"),
    "spectrum": Judge(3, "RMS difference of the radial power spectra in dB"),
}
AUC = "AUC"
LIBRARY = ("LPIPS",)
SATURATED = 0.99
"""From this AUC on the classifier is always right, and tells nothing of differences."""


def judges_of(perceptual: str, scores: Scores) -> list[str]:
    """Which of the scores may decide, for rows whose loss has this perceptual term."""
    return [name for name in JUDGES if name in scores and (name != "DISTS" or perceptual == "none")]


def judge(results: Sequence[Result], dists: Dists | None, library: Library) -> Scores:
    """All scores of a method's results that can be had: fidelity for information, then the JUDGES."""
    each = [
        score(result.x_sr, result.x_hr, dists) | library.score(result.x_sr, result.x_hr, result.name)
        for result in results
    ]
    of_sets = {"NIQE-fit": niqe_distance(results), AUC: classifier_auc(results)}
    found = mean(each) | {"spectrum": spectrum_distance(results)}
    return found | {name: value for name, value in of_sets.items() if value is not None}


def judge_photographs(results: Sequence[Result]) -> Scores:
    """What the photographs themselves would get where that is not known beforehand: the floor."""
    floor = niqe_distance([Result(result.name, result.x_hr, result.x_hr) for result in results])
    return {} if floor is None else {"NIQE-fit": floor}
