"""From pairs to scores, through `pipeline.upscale` with the default settings: during training and in `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from dfosd_core import images
from dfosd_core.attach import attached
from dfosd_core.errors import ConfigError
from dfosd_core.host import Host
from dfosd_core.hosts.own import OwnHost
from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.metadata import BaseLayout
from dfosd_core.pipeline import UpscaleSettings, upscale_attached
from dfosd_core.training.base import own_networks
from dfosd_core.training.dists import Dists

from ..settings.config import ValidationConfig
from .pictures import SheetRow, contact_sheet, read_image, save_picture, to_tensor

FORMATS: dict[str, Callable[[float], str]] = {
    "PSNR-Y": "{:.2f}".format,
    "SSIM-Y": "{:.4f}".format,
    "DISTS": "{:.4f}".format,
}
"""The metrics, in the order of tables, and how each is printed."""
SHEET_ROWS = 8

Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A degraded image and what it was made from, both (1, 3, H, W) in [0, 1]."""

    name: str
    x_lq: Tensor
    x_hr: Tensor
    scale: int
    """How many times larger x_hr is."""


Method = Callable[[Pair], Tensor]
"""Gives x_hr's size, (1, 3, H, W) in [0, 1]."""


def find_pairs(folder: Path, count: int | None = None) -> list[str]:
    """Names in `folder`'s LR/ and HR/, at most `count`, evenly chosen. Raises ConfigError unless they match."""
    sides = [sorted(p.name for p in (folder / side).glob("[!.]*")) for side in ("LR", "HR")]
    if not sides[0] or sides[0] != sides[1]:
        raise ConfigError(
            f"Expected '{folder}' to hold LR/ and HR/ with the same file names, found {len(sides[0])} and "
            f"{len(sides[1])} files. Make one with `python -m train_tools.make_pairs PHOTOS {folder}`."
        )
    return evenly(sides[0], count or len(sides[0]))


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, the first and the last among them, at even distances."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round()]


def read_pair(folder: Path, name: str) -> Pair:
    """Read one pair. Raises ConfigError where the sizes do not go together."""
    x_lq, x_hr = (read_image(folder / side / name) for side in ("LR", "HR"))
    small, large = x_lq.shape[-2:], x_hr.shape[-2:]
    scale = max(1, round(large[0] / small[0]))
    if any(scale * a != b for a, b in zip(small, large, strict=True)):
        raise ConfigError(
            f"'{folder / 'HR' / name}' is {large[1]}x{large[0]}, expected {scale} times the size of the one in LR/, "
            f"{small[1]}x{small[0]}. Crop HR, or make the pairs again with train_tools.make_pairs."
        )
    return Pair(name=name, x_lq=x_lq, x_hr=x_hr, scale=scale)


def bicubic(pair: Pair) -> Tensor:
    """The method to beat."""
    return images.resize(pair.x_lq, (pair.x_hr.shape[-2], pair.x_hr.shape[-1])).clamp(0, 1)


def restored_by(host: Host, lora: DfosdLora, settings: UpscaleSettings) -> Method:
    """`pipeline.upscale` by the pair's scale as a method, for a host that has the LoRA on."""
    return lambda pair: images.to_bchw(
        upscale_attached(images.to_bhwc(pair.x_lq), host, lora, replace(settings, scale=pair.scale))
    )


def score_pairs(
    folder: Path,
    names: Sequence[str],
    methods: Mapping[str, Method],
    dists: Dists | None,
    report: Callable[[str, Mapping[str, Scores]], None] | None = None,
) -> tuple[dict[str, Scores], list[SheetRow]]:
    """Return {method: {metric: mean}} and rows LR | methods | HR of evenly chosen pairs, scores below.

    Each result is rounded to 8 bit first, as a saved file would be. `report` gets each pair's name and scores.
    """
    scores: dict[str, list[Scores]] = {method: [] for method in methods}
    shown, rows = evenly(names, SHEET_ROWS), list[SheetRow]()
    for name in names:
        pair = read_pair(folder, name)
        results = {method: (make(pair).clamp(0, 1) * 255).round() / 255 for method, make in methods.items()}
        found = {method: score(image, pair.x_hr, dists) for method, image in results.items()}
        for method in methods:
            scores[method].append(found[method])
        if report:
            report(name, found)
        if name in shown:
            captions = [Path(name).stem, *(_one_line(found[method]) for method in methods)]
            rows.append(SheetRow(images=[pair.x_lq, *results.values(), pair.x_hr], captions=captions))
    return {method: mean(values) for method, values in scores.items()}, rows


@torch.inference_mode()
def score(image: Tensor, reference: Tensor, dists: Dists | None) -> Scores:
    """All metrics of two images (1, 3, H, W) in [0, 1]; DISTS only where one is given."""
    scores = {"PSNR-Y": psnr_y(image, reference), "SSIM-Y": ssim_y(image, reference)}
    if dists is not None:
        device = dists.mean.device
        scores["DISTS"] = float(dists(image.to(device), reference.to(device)))
    return scores


def luma(image: Tensor) -> Tensor:
    """Y (ITU-R BT.601, 16..235 over 255) (B, 1, H, W) of RGB (B, 3, H, W) in [0, 1], as MATLAB's rgb2ycbcr has it."""
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return ((image * weights).sum(1, keepdim=True) + 16) / 255


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images."""
    mse = float((image.double() - reference.double()).square().mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def psnr_y(image: Tensor, reference: Tensor) -> float:
    """PSNR of the Y channels in dB."""
    return psnr(luma(image), luma(reference))


def ssim_y(image: Tensor, reference: Tensor) -> float:
    """SSIM of the Y channels (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, no padding."""
    x, y = luma(image).double() * 255, luma(reference).double() * 255
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    mu_x, mu_y = F.conv2d(x, window), F.conv2d(y, window)
    var_x = F.conv2d(x * x, window) - mu_x**2
    var_y = F.conv2d(y * y, window) - mu_y**2
    covariance = F.conv2d(x * y, window) - mu_x * mu_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mu_x * mu_y + c1) * (2 * covariance + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return float(score.mean())


def mean(scores: Sequence[Scores]) -> Scores:
    """The mean of each metric."""
    return {metric: float(np.mean([one[metric] for one in scores])) for metric in scores[0]}


def _one_line(scores: Scores) -> str:
    return "  ".join(f"{metric} {FORMATS[metric](value)}" for metric, value in scores.items() if metric != "SSIM-Y")


class Validator:
    """Judges a LoRA in training on held-out pairs, in the number format of the base it is given.

    config: its `pairs` must be set. unet, vae: the base without LoRA layers. The host's networks share its
    weights, and a generator may too, since the LoRA is merged for the time of a run only and every bit comes back.
    dists: None leaves DISTS out. Raises ConfigError for pairs that do not match.
    """

    def __init__(
        self,
        config: ValidationConfig,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        layout: BaseLayout,
        dists: Dists | None,
        out: Path,
    ) -> None:
        assert config.pairs is not None
        self.folder, self.names = config.pairs, find_pairs(config.pairs, config.count)
        self.host = OwnHost(*own_networks(unet, vae), layout)
        self.dists, self.out = dists, out
        plain, self._bicubic_rows = score_pairs(self.folder, self.names, {"bicubic": bicubic}, dists)
        self.bicubic = plain["bicubic"]
        """Bicubic's scores on the same pairs: the line to be above."""
        self.sheet = torch.zeros(3, 1, 1)
        """The last run's contact sheet (3, H, W) in [0, 1]."""

    def run(self, lora: DfosdLora, step: int) -> Scores:
        """Return the mean of each metric and write OUT/validation.png: LR, bicubic, DFOSD, HR."""
        settings = UpscaleSettings()
        with attached(self.host, lora, settings) as host:
            method = restored_by(host, lora, settings)
            scores, rows = score_pairs(self.folder, self.names, {"DFOSD": method}, self.dists)
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
