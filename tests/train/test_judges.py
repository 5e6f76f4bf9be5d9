"""The ablation's judges: each has to see the fault it is there for, and nothing where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from train_tools.ablations.classifier import auc, classifier_auc
from train_tools.ablations.conclusions import conclusions, passes
from train_tools.ablations.judges import JUDGES, judge, judge_photographs, judges_of
from train_tools.ablations.niqe import FEATURES, fit_aggd, niqe_distance, patch_features
from train_tools.ablations.pictures import FOLDS, Result, split
from train_tools.ablations.spectrum import BANDS, radial_spectrum, spectrum_distance
from train_tools.ablations.statistics import T_975, paired, sign_test
from train_tools.scoring.library import Library

EDGE = 128


def photograph(seed: int) -> Tensor:
    """Noise, smooth as photographs are and of more contrast on the right, in whole levels: (1, 3, EDGE, EDGE)."""
    rng = torch.Generator().manual_seed(seed)
    radius = torch.hypot(torch.fft.fftfreq(EDGE)[:, None], torch.fft.fftfreq(EDGE)[None, :]).clamp(min=1 / EDGE)
    grey = torch.fft.ifft2(torch.fft.fft2(torch.randn(EDGE, EDGE, generator=rng)) / radius**1.5).real
    grey = 0.5 + 0.15 * grey / grey.std() * torch.linspace(0.6, 1, EDGE)
    return ((grey.clamp(0, 1) * 255).round() / 255).expand(1, 3, EDGE, EDGE).contiguous()


def blurred(image: Tensor) -> Tensor:
    small = F.interpolate(image, scale_factor=0.25, mode="area")
    return F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)


def noisy(image: Tensor, amount: float = 0.05) -> Tensor:
    return (image + amount * torch.randn(image.shape, generator=torch.Generator().manual_seed(9))).clamp(0, 1)


PHOTOGRAPHS = [photograph(seed) for seed in range(8)]
ORIGINALS = [Result(str(i), x, x) for i, x in enumerate(PHOTOGRAPHS)]
BLURRED = [Result(str(i), blurred(x), x) for i, x in enumerate(PHOTOGRAPHS)]
NOISY = [Result(str(i), noisy(x), x) for i, x in enumerate(PHOTOGRAPHS)]


def test_no_photograph_is_learned_from_and_judged() -> None:
    judged: list[str] = []
    for fold in range(FOLDS):
        learned, own = split(ORIGINALS, fold)
        assert not {r.name for r in learned} & {r.name for r in own}
        assert len(learned) + len(own) == len(ORIGINALS)
        judged += [r.name for r in own]
    assert sorted(judged) == [r.name for r in ORIGINALS]


def test_spectrum_knows_a_waves_ring_and_power() -> None:
    """A sine of amplitude a has the power a^2 / 2, whatever ring it falls into."""
    x = torch.arange(EDGE)
    wave = torch.sin(2 * math.pi * 24 / EDGE * x).expand(EDGE, EDGE)  # 24 of 64 below Nyquist: ring 9 of 24
    image = (0.5 + 0.2 * wave).expand(1, 3, EDGE, EDGE)
    spectrum = radial_spectrum(image)
    assert spectrum.shape == (BANDS,)
    assert spectrum.argmax() == 9
    flat = radial_spectrum(torch.full((1, 3, EDGE, EDGE), 0.5))
    torch.testing.assert_close(flat, torch.full_like(flat, 10 * math.log10(1 / 12)))


def test_spectrum_grows_with_lost_and_with_added_detail() -> None:
    assert spectrum_distance(ORIGINALS) == 0
    assert spectrum_distance(BLURRED) > 5
    assert spectrum_distance(NOISY) > 5
    a_little = [Result(r.name, noisy(r.x_hr, 0.005), r.x_hr) for r in ORIGINALS]
    assert 0 < spectrum_distance(a_little) < spectrum_distance(NOISY) / 3


@pytest.mark.parametrize(("shape", "draw"), [(2.0, "normal"), (1.0, "laplace")])
def test_aggd_finds_shape_scales_and_mean(shape: float, draw: str) -> None:
    """The right half three times as wide as the left, each side by its chance of a draw."""
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(size=400_000) if draw == "normal" else rng.laplace(size=400_000))
    scale = math.sqrt(2) if draw == "normal" else 1.0  # of exp(-(|x| / scale)^shape)
    right = rng.random(400_000) < 0.75
    values = torch.from_numpy(np.where(right, 3 * size, -size))[None]
    alpha, left, to_right, mean = fit_aggd(values)
    assert float(alpha) == pytest.approx(shape, rel=0.02)
    assert (float(left), float(to_right)) == pytest.approx((scale, 3 * scale), rel=0.02)
    assert float(mean) == pytest.approx(float(values.mean()), rel=0.02)


def test_niqe_is_smallest_for_photographs_and_sees_blur_and_noise() -> None:
    features = patch_features(PHOTOGRAPHS[0])
    assert features.shape == (16, FEATURES)
    assert features.isfinite().all()
    assert patch_features(PHOTOGRAPHS[0], sharp=0.9).shape[0] < 16
    own, soft, grainy = (niqe_distance(results) for results in (ORIGINALS, BLURRED, NOISY))
    assert own is not None
    assert soft is not None
    assert grainy is not None
    assert own < soft / 2
    assert own < grainy / 2


def test_auc_by_hand() -> None:
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1
    assert auc(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == 0
    assert auc(torch.tensor([1.0, 1.0]), torch.tensor([1.0])) == 0.5
    assert auc(torch.tensor([0.0, 2.0]), torch.tensor([1.0])) == 0.5


def test_classifier_tells_blur_and_cannot_tell_equals() -> None:
    assert classifier_auc(ORIGINALS, steps=3) == 0.5
    found = classifier_auc(BLURRED, steps=30)
    assert found is not None
    assert found > 0.9
    assert classifier_auc(NOISY, steps=3) == classifier_auc(NOISY, steps=3)  # nothing is drawn anew


def test_classifier_is_judged_on_photographs_it_has_not_seen() -> None:
    """Results that are other photographs of the same kind: what is learned by heart helps nobody."""
    others = [Result(str(i), photograph(100 + i), x) for i, x in enumerate(PHOTOGRAPHS)]
    found = classifier_auc(others, steps=30)
    assert found is not None
    assert 0.25 < found < 0.75


def test_too_few_or_too_small_pictures_are_left_out_not_guessed() -> None:
    small = [Result(r.name, r.x_sr[..., :24, :24], r.x_hr[..., :24, :24]) for r in BLURRED]
    scores = judge(small, None, Library({}, "", torch.device("cpu")))
    assert scores.keys() == {"PSNR-Y", "SSIM-Y", "spectrum"}
    assert classifier_auc(BLURRED[:3], steps=1) is None
    assert judge_photographs(small) == {}


def test_a_trained_metric_is_no_judge() -> None:
    scores = dict.fromkeys(JUDGES, 0.0)
    assert judges_of("none", scores) == list(JUDGES)
    assert judges_of("ea_dists", scores) == [name for name in JUDGES if name != "DISTS"]
    assert judges_of("none", {"PSNR-Y": 30.0, "AUC": 0.9}) == ["AUC"]


def test_paired_differences_interval_and_sign_test() -> None:
    own = paired([1.0, 2.0, 3.0, 4.0], [1.5, 2.4, 3.6, 4.5])
    assert own.mean == pytest.approx(-0.5)
    assert own.deviation == pytest.approx(0.0816497, rel=1e-5)
    assert (own.low, own.high) == pytest.approx((-0.5 - 3.182 * 0.0408248, -0.5 + 3.182 * 0.0408248), rel=1e-5)
    assert (own.better, own.sign_p, own.is_shown) == (4, 0.125, True)
    assert not paired([1.0, 2.0, 3.0, 4.0], [0.0, 3.0, 3.5, 3.9]).is_shown
    assert not paired([1.0, 2.0, 3.0], [1.5, 2.4, 3.6]).is_shown  # three seeds are too few
    one = paired([1.0], [2.0])
    assert not one.is_shown
    assert math.isnan(one.low)
    assert [sign_test(5, 1), sign_test(0, 0), sign_test(8, 0)] == [0.21875, 1.0, 2 / 256]
    assert list(T_975) == sorted(T_975, reverse=True)
    assert len(T_975) == 30


def test_conclusions_say_what_can_and_cannot_be_said() -> None:
    shown, open_ = paired([1, 2, 3, 4.1], [2, 3, 4, 5]), paired([1, 2, 3, 4], [0.0, 3, 3.5, 3.9])
    compared = {("nad", "none"): {"AUC": shown, "spectrum": open_}, ("pixel", "none"): {"AUC": shown}}
    gates = {"nad": [0.9, 1.1, 1.0, 1.0], "pixel": [0.9, 1.3, 1.0, 1.0]}
    labels = {"nad": "NAD", "none": "no discriminator", "pixel": "CNN"}
    said = conclusions(compared, gates, labels)
    assert passes(gates["nad"])
    assert not passes(gates["pixel"])
    assert said[0].startswith("NAD: its discriminator had learned when it joined (held-out L_D 0.900, 1.100")
    assert said[1].startswith("CNN does not count: its discriminator had not learned in every seed")
    assert said[2] == "NAD against no discriminator, 4 seeds: better by AUC; no difference shown by spectrum."
    assert said[3].endswith("better by AUC. It does not count, because of CNN.")
    assert said[4].startswith("Of 3 intervals of 95 %, 0.2 would leave out 0 if no row differed.")
    few = {("nad", "none"): {"AUC": paired([1, 2, 3], [2, 3, 4])}}
    assert conclusions(few, gates, labels)[2].startswith(
        "NAD against no discriminator: nothing can be concluded; expected 4 seeds or more, found 3."
    )
