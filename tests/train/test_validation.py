"""Scores of a LoRA in training: those of `dfosd upscale`'s own way, and the base untouched."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from support import small_networks
from support.diffusers_host import DiffusersHost, own_twin
from support.tiny_models import random_lora
from torch import Tensor

from dfosd_core import images
from dfosd_core.errors import ConfigError
from dfosd_core.pipeline import upscale
from dfosd_core.training.base import layout_of
from dfosd_core.training.dists import VGG16_STAGES, VGG16_WIDTHS, Dists
from train_tools import evaluate, make_pairs
from train_tools.scoring.metrics import luma, psnr_y, score, ssim_y
from train_tools.scoring.pair_files import evenly, find_pairs, read_pair
from train_tools.scoring.pictures import read_image
from train_tools.scoring.sets import open_set
from train_tools.scoring.validation import Validator, bicubic

SIZES = {"a.png": (8, 12), "b.png": (12, 8), "c.png": (10, 10)}


def random_vgg() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    inputs = 3
    for stage, width in zip(VGG16_STAGES, VGG16_WIDTHS, strict=True):
        for index in stage:
            weights[f"features.{index}.weight"] = torch.randn(width, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
            weights[f"features.{index}.bias"] = torch.zeros(width)
            inputs = width
    return weights


def random_dists() -> Dists:
    return Dists(random_vgg(), torch.rand(1475), torch.rand(1475))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs of noise over a gradient, HR four times LR."""
    draw = np.random.default_rng(0)
    for side, scale in (("LR", 1), ("HR", 4)):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for name, (height, width) in SIZES.items():
            ramp = np.linspace(40, 200, width * scale)[None, :, None]
            noise = draw.normal(0, 25, (height * scale, width * scale, 3))
            Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "pairs" / side / name)
    return tmp_path / "pairs"


def small_host() -> DiffusersHost:
    unet, vae = small_networks.small_unet(), small_networks.small_vae()
    return DiffusersHost(unet, vae, layout_of(unet, vae, "epsilon"))


def noise_pair() -> tuple[Tensor, Tensor]:
    image = torch.rand(1, 3, 40, 30, generator=small_networks.rng())
    return image, (image + 0.1 * torch.randn(image.shape, generator=small_networks.rng(1))).clamp(0, 1)


def test_metrics_equal_scikit_images() -> None:
    image, other = noise_pair()
    ours, theirs = (rgb2ycbcr(x[0].permute(1, 2, 0).double().numpy())[..., 0] for x in (image, other))
    np.testing.assert_allclose(luma(image)[0, 0].numpy() * 255, ours, atol=1e-4)
    assert psnr_y(image, other) == pytest.approx(peak_signal_noise_ratio(ours, theirs, data_range=255), abs=1e-4)
    expected = structural_similarity(  # whole levels, as pyiqa has it
        ours.round(), theirs.round(), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    # Both windows end at 3.5 sigma, 11 pixels; scikit-image leaves out the border that ours has no values for.
    assert ssim_y(image, other) == pytest.approx(expected, abs=1e-5)


def test_dists_is_scored_only_where_it_is_given() -> None:
    image, other = noise_pair()
    assert list(score(image, other, None)) == ["PSNR-Y", "SSIM-Y"]
    found = score(image, image, random_dists())
    assert found["DISTS"] == pytest.approx(0, abs=1e-6)
    assert found["SSIM-Y"] == pytest.approx(1)


def test_pairs_are_evenly_chosen() -> None:
    assert evenly("abcdefg", 3) == ["a", "d", "g"]
    assert evenly("ab", 5) == ["a", "b"]


def test_pairs_that_do_not_match_are_named(pairs: Path) -> None:
    assert find_pairs(pairs, 2) == ["a.png", "c.png"]
    (pairs / "LR" / "b.png").unlink()
    with pytest.raises(ConfigError, match=r"LR/ and HR/ with the same file names, found 2 and 3 files\. Make one"):
        find_pairs(pairs)
    with pytest.raises(ConfigError, match="found 0 and 0 files"):
        find_pairs(pairs / "nowhere")


def test_pair_of_another_scale_is_named(pairs: Path) -> None:
    Image.new("RGB", (40, 36)).save(pairs / "HR" / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png' is 40x36, expected 4 times the size of the one in LR/, 12x8\."):
        read_pair(pairs, "a.png")


def test_validation_is_the_mean_over_upscaled_pairs_and_leaves_no_trace(pairs: Path, tmp_path: Path) -> None:
    host, dists = small_host(), random_dists()
    lora = random_lora(host)
    out = tmp_path / "run"
    validator = Validator(pairs, 16, host.unet, host.vae, host.layout, dists, out)
    before = {name: value.clone() for name, value in host.unet.state_dict().items()}
    state = torch.get_rng_state()
    found = validator.run(lora, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in host.unet.state_dict().items())

    expected: list[tuple[float, float, float]] = []
    for name in SIZES:
        x_hr = read_image(pairs / "HR" / name)
        x_sr = upscale(images.to_bhwc(read_image(pairs / "LR" / name)), own_twin(host), lora)
        x_sr = images.to_bchw((x_sr * 255).round() / 255)
        expected.append((psnr_y(x_sr, x_hr), ssim_y(x_sr, x_hr), float(dists(x_sr, x_hr))))
    assert list(found) == ["PSNR-Y", "SSIM-Y", "DISTS"]
    assert list(found.values()) == pytest.approx(np.mean(expected, axis=0).tolist(), rel=1e-6)
    assert found != pytest.approx(validator.bicubic, rel=1e-2)

    sheet = read_image(out / "validation.png")[0]
    assert torch.equal(sheet, validator.sheet)
    assert sheet.shape[2] > sheet.shape[1] > 3 * 256  # four columns, three rows
    assert [path.name for path in out.iterdir()] == ["validation.png"]


def test_validation_without_dists_in_the_bases_number_format(pairs: Path, tmp_path: Path) -> None:
    scores: list[list[float]] = []
    for dtype in (torch.float32, torch.bfloat16):
        host = small_host()
        lora = random_lora(host)
        unet, vae = (network.to(dtype=dtype) for network in (host.unet, host.vae))
        validator = Validator(pairs, 2, unet, vae, host.layout, None, tmp_path)
        assert validator.names == ["a.png", "c.png"]
        scores.append([validator.run(lora, 0)["PSNR-Y"], validator.bicubic["PSNR-Y"]])
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.5)


def run(monkeypatch: pytest.MonkeyPatch, module: object, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    return module.main()  # pyright: ignore[reportAttributeAccessIssue]


def test_evaluate_prints_every_method_of_the_folder(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pairs / "peer").mkdir()
    for name in SIZES:
        (pairs / "peer" / name).write_bytes((pairs / "HR" / name).read_bytes())
    save_file(random_vgg(), tmp_path / "vgg.safetensors")
    save_file({"alpha": torch.rand(1475), "beta": torch.rand(1475)}, tmp_path / "dists.safetensors")
    options = ("--vgg", tmp_path / "vgg.safetensors", "--dists", tmp_path / "dists.safetensors")
    files = ("--sheet", tmp_path / "sheet.png", "--json", tmp_path / "means.json")
    assert run(monkeypatch, evaluate, pairs, "--dtype", "float32", *options, *files) == 0
    caption, _, *table = capsys.readouterr().out.splitlines()
    means = json.loads((tmp_path / "means.json").read_text())
    assert caption == "pairs, protocol `own` (own images, not comparable with published figures), 3 images:"
    assert table[0] == "| method | PSNR-Y | SSIM-Y | DISTS |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| bicubic", "| DFOSD", "| peer"]
    assert means["peer"] == {"PSNR-Y": float("inf"), "SSIM-Y": pytest.approx(1), "DISTS": pytest.approx(0, abs=1e-6)}
    pair = read_pair(pairs, "a.png")
    assert abs(means["bicubic"]["PSNR-Y"] - psnr_y(bicubic(pair), pair.x_hr)) < 3
    assert read_image(tmp_path / "sheet.png").shape[3] == 5 * 260 - 4


def test_evaluate_reports_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, evaluate, tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"evaluate: Expected '{tmp_path}' to hold LR/ and HR/")
    with pytest.raises(SystemExit):
        run(monkeypatch, evaluate, tmp_path, "--base", "sd21")
    assert "--base needs --lora: a LoRA trained on it" in capsys.readouterr().err


def test_pairs_are_made_of_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    assert run(monkeypatch, make_pairs, photos, tmp_path / "pairs") == 1
    assert capsys.readouterr().err.startswith(f"make_pairs: No photographs in '{photos}'")
    middle = np.zeros((200, 300, 3), np.uint8)
    middle[50:150, 100:200] = np.arange(100)[:, None, None] + np.array([0, 40, 80])
    Image.fromarray(middle).save(photos / "one.png")
    assert run(monkeypatch, make_pairs, photos, tmp_path / "pairs", "--size", 100) == 0
    assert find_pairs(tmp_path / "pairs") == ["one.png"]
    pair = read_pair(tmp_path / "pairs", "one.png")
    assert pair.x_lq.shape == (1, 3, 25, 25)
    assert torch.equal((pair.x_hr[0, :, :, 0] * 255).round(), torch.arange(100.0) + torch.tensor([[0.0], [40], [80]]))
    assert (bicubic(pair) - pair.x_hr).abs().mean() < 0.05


def test_validation_and_evaluate_find_pairs_by_one_rule(pairs: Path) -> None:
    """StableSR's names of the folders, endings that differ, and files that are no images."""
    (pairs / "HR" / "notes.txt").write_text("not an image")
    Image.open(pairs / "HR" / "a.png").save(pairs / "HR" / "a.bmp")
    (pairs / "HR" / "a.png").unlink()
    for side, other in (("LR", "lq"), ("HR", "gt")):
        (pairs / side).rename(pairs / other)
    assert find_pairs(pairs) == ["a.png", "b.png", "c.png"]
    assert read_pair(pairs, "a.png").x_hr.shape == (1, 3, 32, 48)
    assert list(open_set(pairs).hr) == ["a", "b", "c"]
    (pairs / "gt" / "b.png").unlink()
    for find in (find_pairs, open_set):
        with pytest.raises(ConfigError, match="with the same file names.* found 3 and 2 files"):
            find(pairs)
