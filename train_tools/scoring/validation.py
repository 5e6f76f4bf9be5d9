"""From pairs to scores, through `pipeline.upscale` with the default settings: during training and in `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dfosd_core import images
from dfosd_core.attach import attached
from dfosd_core.host import Host
from dfosd_core.hosts.own import OwnHost
from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.metadata import BaseLayout
from dfosd_core.pipeline import UpscaleSettings, upscale_attached
from dfosd_core.training.base import own_networks
from dfosd_core.training.dists import Dists

from .library import Library
from .metrics import FORMATS, Scores, mean, score
from .pair_files import Sample, evenly, find_pairs, read_pair
from .pictures import SheetRow, contact_sheet, rounded, save_picture, to_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

SHEET_ROWS = 8
TRAINING_METRICS = ("LPIPS", "NIQE", "MUSIQ")
"""Of pyiqa's, those that a run is validated by where they can be had; `evaluate` has the others, which take longer."""


Method = Callable[[Sample], Tensor]
"""Gives an image `scale` times as large, (1, 3, H, W) in [0, 1]."""


def bicubic(sample: Sample) -> Tensor:
    """The method to beat."""
    height, width = sample.x_lq.shape[-2:]
    return images.resize(sample.x_lq, (height * sample.scale, width * sample.scale)).clamp(0, 1)


def restored_by(host: Host, lora: DfosdLora, settings: UpscaleSettings) -> Method:
    """`pipeline.upscale` by the sample's scale as a method, for a host that has the LoRA on."""
    return lambda sample: images.to_bchw(
        upscale_attached(images.to_bhwc(sample.x_lq), host, lora, replace(settings, scale=sample.scale))
    )


def score_pairs(
    folder: Path,
    names: Sequence[str],
    methods: Mapping[str, Method],
    dists: Dists | None,
    report: Callable[[str, Mapping[str, Scores]], None] | None = None,
    library: Library | None = None,
) -> tuple[dict[str, Scores], list[SheetRow]]:
    """Return {method: {metric: mean}} and rows LR | methods | HR of evenly chosen pairs, scores below.

    Each result is rounded to 8 bit first, as a saved file would be. `report` gets each pair's name and scores.
    """
    scores: dict[str, list[Scores]] = {method: [] for method in methods}
    shown, rows = evenly(names, SHEET_ROWS), list[SheetRow]()
    for name in names:
        pair = read_pair(folder, name)
        results = {method: rounded(make(pair)) for method, make in methods.items()}
        found = {method: score(image, pair.x_hr, dists) for method, image in results.items()}
        if library:
            found = {method: found[method] | library.score(results[method], pair.x_hr, name) for method in methods}
        for method in methods:
            scores[method].append(found[method])
        if report:
            report(name, found)
        if name in shown:
            captions = [Path(name).stem, *(caption_of(found[method]) for method in methods)]
            rows.append(SheetRow(images=[pair.x_lq, *results.values(), pair.x_hr], captions=captions))
    return {method: mean(values) for method, values in scores.items()}, rows


def caption_of(scores: Scores) -> str:
    return "  ".join(f"{metric} {FORMATS[metric](value)}" for metric, value in scores.items() if metric != "SSIM-Y")


class Validator:
    """Judges a LoRA in training on held-out pairs, in the number format of the base it is given.

    pairs: their folder; count: at most so many of them. unet, vae: the base without LoRA layers. The host's networks
    share its weights, and a generator may too, since the LoRA is merged for the time of a run only and every bit comes
    back. dists: None leaves DISTS out; library: pyiqa's metrics. Raises ConfigError for pairs that do not match.
    """

    def __init__(
        self,
        pairs: Path,
        count: int,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        layout: BaseLayout,
        dists: Dists | None,
        out: Path,
        library: Library | None = None,
    ) -> None:
        self.folder, self.names = pairs, find_pairs(pairs, count)
        self.host = OwnHost(*own_networks(unet, vae), layout)
        self.dists, self.library, self.out = dists, library, out
        plain, self._bicubic_rows = score_pairs(self.folder, self.names, {"bicubic": bicubic}, dists, library=library)
        self.bicubic = plain["bicubic"]
        """Bicubic's scores on the same pairs: the line to be above."""
        self.sheet = torch.zeros(3, 1, 1)
        """The last run's contact sheet (3, H, W) in [0, 1]."""

    def run(self, lora: DfosdLora, step: int) -> Scores:
        """Return the mean of each metric and write OUT/validation.png: LR, bicubic, DFOSD, HR."""
        settings = UpscaleSettings()
        with attached(self.host, lora, settings) as host:
            method = restored_by(host, lora, settings)
            scores, rows = score_pairs(self.folder, self.names, {"DFOSD": method}, self.dists, library=self.library)
        joined = [  # bicubic's column put into a row LR | DFOSD | HR
            SheetRow(
                images=[row.images[0], plain.images[1], *row.images[1:]],
                captions=[row.captions[0], plain.captions[1], *row.captions[1:]],
            )
            for row, plain in zip(rows, self._bicubic_rows, strict=True)
        ]
        sheet = contact_sheet(joined, ("LR (nearest)", "bicubic", f"DFOSD, step {step}", "HR"))
        save_picture(sheet, self.out / "validation.png")
        self.sheet = to_tensor(sheet)[0]
        return scores["DFOSD"]
