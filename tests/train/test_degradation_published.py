"""`heavy` is Real-ESRGAN as published: its numbers, docs/degradation.md, and the statistics of 1,000 draws.

The published numbers are those of Real-ESRGAN's repository at a4abfb29: options/train_realesrnet_x4plus.yml and, for
what is written into the code, realesrgan/data/realesrgan_dataset.py and realesrgan/models/realesrnet_model.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dfosd_core.training.degradations import blur_kernels
from dfosd_core.training.degradations.blur_kernels import Blur, Sinc
from dfosd_core.training.degradations.presets import CAMERA, HEAVY, LIGHT
from dfosd_core.training.degradations.real_esrgan import Draw, RealEsrgan, RoundDraw

PAGE = Path(__file__).parents[2] / "docs" / "degradation.md"
Numbers = tuple[float, ...]

PUBLISHED: dict[str, Numbers] = {
    "blur, round 1 and 2: probability": (1, 0.8),
    "blur: taps": (7, 9, 11, 13, 15, 17, 19, 21),
    "blur: iso, aniso, generalised iso, aniso, plateau iso, aniso": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    "blur, round 1: sigma": (0.2, 3),
    "blur, round 2: sigma": (0.2, 1.5),
    "blur: beta, generalised": (0.5, 4),
    "blur: beta, plateau": (1, 2),
    "sinc for a blur, round 1 and 2: probability": (0.1, 0.1),
    "sinc for a blur: cut-off over pi, below 13 taps": (1 / 3, 1),
    "sinc for a blur: cut-off over pi, from 13 taps": (1 / 5, 1),
    "resize, round 1: up, down, keep": (0.2, 0.7, 0.1),
    "resize, round 1: factor": (0.15, 1.5),
    "resize, round 2: up, down, keep": (0.3, 0.4, 0.3),
    "resize, round 2: factor": (0.3, 1.2),
    "Gaussian noise, round 1 and 2: probability (else Poisson)": (0.5, 0.5),
    "Gaussian noise, round 1: sigma of 255": (1, 30),
    "Gaussian noise, round 2: sigma of 255": (1, 25),
    "Poisson noise, round 1: scale": (0.05, 3),
    "Poisson noise, round 2: scale": (0.05, 2.5),
    "grey noise, round 1 and 2: probability": (0.4, 0.4),
    "JPEG, round 1: quality": (30, 95),
    "JPEG, round 2: quality": (30, 95),
    "final sinc: probability": (0.8,),
    "final sinc: cut-off over pi": (1 / 3, 1),
    "sharpening in its place: amount": (0, 0),
    "sharpening: sigma in pixels of x_lq": (),
}


def numbers_of(preset: RealEsrgan) -> dict[str, Numbers]:
    """Ours under the same names."""
    a, b = preset.first, preset.second
    shares = zip(blur_kernels.SHAPE_PROBABILITIES, blur_kernels.ISOTROPIC, strict=True)
    kinds = [share for p, iso in shares for share in (p * iso, p * (1 - iso))]
    values: Iterable[Iterable[float]] = (
        (a.blur_probability, b.blur_probability),
        a.kernel_sizes,
        kinds,
        a.blur_sigma,
        b.blur_sigma,
        blur_kernels.BETAS["generalized"],
        blur_kernels.BETAS["plateau"],
        (a.sinc_probability, b.sinc_probability),
        (edge / math.pi for edge in blur_kernels.SINC_CUTOFF),
        (edge / math.pi for edge in blur_kernels.SINC_CUTOFF_WIDE),
        a.resize_probabilities,
        a.resize,
        b.resize_probabilities,
        b.resize,
        (a.gaussian_probability, b.gaussian_probability),
        a.gaussian_sigma,
        b.gaussian_sigma,
        a.poisson_scale,
        b.poisson_scale,
        (a.grey_noise_probability, b.grey_noise_probability),
        a.jpeg_quality,
        b.jpeg_quality,
        (preset.final_sinc_probability,),
        (edge / math.pi for edge in blur_kernels.SINC_CUTOFF),
        preset.final_sharpening or (0, 0),
        blur_kernels.SHARPENING_SIGMA if preset.final_sharpening else (),
    )
    assert a.kernel_sizes == b.kernel_sizes
    return {name: tuple(value) for name, value in zip(PUBLISHED, values, strict=True)}


def table() -> list[str]:
    """The page's table."""
    columns = [PUBLISHED, *(numbers_of(preset) for preset in (HEAVY, LIGHT, CAMERA))]
    rows = [
        f"| {name} | {' | '.join(', '.join(f'{number:.3g}' for number in column[name]) for column in columns)} |"
        for name in PUBLISHED
    ]
    return ["| setting | published | `heavy` | `light` | `camera` |", "|---|---|---|---|---|", *rows]


def test_heavy_has_the_published_numbers() -> None:
    ours = numbers_of(HEAVY)
    for name, published in PUBLISHED.items():
        assert ours[name] == pytest.approx(published), name


def test_the_page_shows_them() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("<!-- table -->") + 1
    assert lines[start : lines.index("<!-- /table -->")] == table()


@pytest.fixture(scope="module")
def draws() -> list[Draw]:
    """A thousand, each of a seed of its own, as training draws them."""
    return [HEAVY.draw(np.random.default_rng((11, k))) for k in range(1000)]


def share(found: Iterable[bool], expected: float) -> None:
    """Within four standard errors."""
    values = list(found)
    error = math.sqrt(max(expected * (1 - expected), 1e-9) / len(values))
    assert abs(float(np.mean(values)) - expected) <= 4 * error, (float(np.mean(values)), expected, len(values))


def uniform(found: Iterable[float], low: float, high: float, rounding: float = 0.0) -> None:
    """Inside the range, near both of its ends, and with its mean within four standard errors."""
    values = np.array(list(found))
    width = high - low
    assert low - rounding <= values.min() <= low + 12 * width / len(values) + rounding
    assert high + rounding >= values.max() >= high - 12 * width / len(values) - rounding
    assert abs(values.mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * len(values))


def of_round(draws: list[Draw], number: int) -> list[RoundDraw]:
    return [(draw.first, draw.second)[number] for draw in draws]


@pytest.mark.parametrize("number", [0, 1])
def test_kernels_of_a_thousand_draws(draws: list[Draw], number: int) -> None:
    rounds = of_round(draws, number)
    share((r.blur is not None for r in rounds), (1.0, 0.8)[number])
    kernels = [r.blur for r in rounds if r.blur is not None]
    share((isinstance(kernel, Sinc) for kernel in kernels), 0.1)
    for size in PUBLISHED["blur: taps"]:
        share((kernel.size == size for kernel in kernels), 1 / 8)
    assert all(kernel.kernel().shape == (kernel.size, kernel.size) for kernel in kernels[:50])
    blurs = [kernel for kernel in kernels if isinstance(kernel, Blur)]
    kinds = Counter((blur.shape, blur.sigma_x == blur.sigma_y) for blur in blurs)
    expected = zip(
        ((shape, iso) for shape in ("gaussian", "generalized", "plateau") for iso in (True, False)),
        PUBLISHED["blur: iso, aniso, generalised iso, aniso, plateau iso, aniso"],
        strict=True,
    )
    for kind, probability in expected:
        share([True] * kinds[kind] + [False] * (len(blurs) - kinds[kind]), probability)
    uniform((blur.sigma_x for blur in blurs), 0.2, (3, 1.5)[number])
    turned = [blur for blur in blurs if blur.sigma_x != blur.sigma_y]
    uniform((blur.sigma_y for blur in turned), 0.2, (3, 1.5)[number])
    uniform((blur.theta for blur in turned), -math.pi, math.pi)


class Same(np.random.Generator):
    """Draws one and the same number wherever it is compared with a probability."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, *_: object, **__: object) -> float:  # type: ignore[override]
        return self.number


def test_a_low_number_takes_the_first_branch_everywhere_as_in_the_published_code() -> None:
    """`np.random.uniform() < probability` each time: below one half the last JPEG comes at the end."""
    low, high = HEAVY.draw(Same(0.0)), HEAVY.draw(Same(0.999))
    for drawn in (low.first, low.second):
        assert isinstance(drawn.blur, Sinc)
        assert drawn.factor > 1
        assert (drawn.noise.is_gaussian, drawn.noise.is_grey) == (True, True)
    assert isinstance(low.final_filter, Sinc)
    assert low.jpeg_last
    assert isinstance(high.first.blur, Blur)
    assert high.second.blur is None
    for drawn in (high.first, high.second):
        assert drawn.factor == 1
        assert (drawn.noise.is_gaussian, drawn.noise.is_grey) == (False, False)
    assert high.final_filter is None
    assert not high.jpeg_last


def test_betas_of_a_thousand_draws(draws: list[Draw]) -> None:
    blurs = [r.blur for number in (0, 1) for r in of_round(draws, number) if isinstance(r.blur, Blur)]
    assert {blur.beta for blur in blurs if blur.shape == "gaussian"} == {1.0}
    generalized = [blur.beta for blur in blurs if blur.shape == "generalized"]
    share((beta < 1 for beta in generalized), 0.5)
    uniform((beta for beta in generalized if beta < 1), 0.5, 1)
    uniform((beta for beta in generalized if beta > 1), 1, 4)
    plateau = [blur.beta for blur in blurs if blur.shape == "plateau"]
    share((beta == 1 for beta in plateau), 0.5)
    uniform((beta for beta in plateau if beta != 1), 1, 2)


def test_sinc_kernels_of_many_draws(draws: list[Draw]) -> None:
    more = [HEAVY.draw(np.random.default_rng((12, k))) for k in range(4000)]
    sincs = [r.blur for draw in draws + more for r in (draw.first, draw.second) if isinstance(r.blur, Sinc)]
    uniform((sinc.cutoff for sinc in sincs if sinc.size < 13), math.pi / 3, math.pi)
    uniform((sinc.cutoff for sinc in sincs if sinc.size >= 13), math.pi / 5, math.pi)
    share((draw.final_filter is not None for draw in draws), 0.8)
    final = [draw.final_filter for draw in draws if isinstance(draw.final_filter, Sinc)]
    for size in PUBLISHED["blur: taps"]:
        share((sinc.size == size for sinc in final), 1 / 8)
    for wide in (True, False):
        uniform((sinc.cutoff for sinc in final if (sinc.size >= 13) is wide), math.pi / 3, math.pi)


@pytest.mark.parametrize("number", [0, 1])
def test_the_rest_of_a_thousand_draws(draws: list[Draw], number: int) -> None:
    rounds, name = of_round(draws, number), f"round {number + 1}"
    up, down, keep = PUBLISHED[f"resize, {name}: up, down, keep"]
    low, high = PUBLISHED[f"resize, {name}: factor"]
    factors = [r.factor for r in rounds]
    for found, expected in (
        ((f > 1 for f in factors), up),
        ((f < 1 for f in factors), down),
        ((f == 1 for f in factors), keep),
    ):
        share(found, expected)
    uniform((f for f in factors if f > 1), 1, high)
    uniform((f for f in factors if f < 1), low, 1)
    for mode in ("area", "bilinear", "bicubic"):
        share((r.mode == mode for r in rounds), 1 / 3)
    share((r.noise.is_gaussian for r in rounds), 0.5)
    share((r.noise.is_grey for r in rounds), 0.4)
    uniform(
        (r.noise.strength for r in rounds if r.noise.is_gaussian), *PUBLISHED[f"Gaussian noise, {name}: sigma of 255"]
    )
    uniform((r.noise.strength for r in rounds if not r.noise.is_gaussian), *PUBLISHED[f"Poisson noise, {name}: scale"])
    uniform((r.jpeg_quality for r in rounds), *PUBLISHED[f"JPEG, {name}: quality"], rounding=0.5)


def test_order_and_last_resize_of_a_thousand_draws(draws: list[Draw]) -> None:
    share((draw.jpeg_last for draw in draws), 0.5)
    for mode in ("area", "bilinear", "bicubic"):
        share((draw.final_mode == mode for draw in draws), 1 / 3)
