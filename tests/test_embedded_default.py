"""The model that ships: its size on disk, its memory, its tiles, and that it sharpens without inventing colours."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
import torch
from PIL import Image
from torch import Tensor

from dfosd_core import images
from dfosd_core.hosts.own import OwnHost, load_default
from dfosd_core.lora.file import DfosdLora
from dfosd_core.networks.embedded import DEFAULT_WEIGHTS
from dfosd_core.pipeline import UpscaleSettings, upscale

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def default() -> tuple[OwnHost, DfosdLora]:
    return load_default()


def photograph(name: str) -> Tensor:
    """A photograph that scikit-image brings, as (1, H, W, 3) in [0, 1]; the LoRA was not trained on it."""
    folder = Path(skimage.__file__).parent / "data"
    with Image.open(next(folder.glob(f"{name}.*"))) as image:
        return images.to_bhwc(images.to_bchw(_pixels(image)))


def _pixels(image: Image.Image) -> Tensor:
    flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.view(1, image.height, image.width, 3).float() / 255


def test_weights_stay_small() -> None:
    assert sum(p.stat().st_size for p in DEFAULT_WEIGHTS.rglob("*") if p.is_file()) <= 40 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "height", "width"), [("coffee", 400, 168), ("chelsea", 156, 436)])
def test_automatic_tiles_equal_untiled(default: tuple[OwnHost, DfosdLora], name: str, height: int, width: int) -> None:
    host, lora = default
    image = photograph(name)[:, :height, :width]
    tiles = host.auto_tiles(4 * height, 4 * width)
    assert 0 < max(tiles.encode.tile, tiles.decode.tile) < 4 * max(height, width), "more than one tile"
    tiled = upscale(image, host, lora)
    whole = upscale(image, host, lora, UpscaleSettings(unet_tile=0, vae_tile=0))
    assert (tiled - whole).abs().max() <= 2 / 255


def test_unet_tiles_equal_the_whole_map(default: tuple[OwnHost, DfosdLora]) -> None:
    """Only where no layer sees the whole map: no statistics, and no self-attention."""
    host, lora = default
    image = photograph("coffee")[:, 100:260, 100:292]
    whole = upscale(image, host, lora, UpscaleSettings(unet_tile=0))
    tiled = upscale(image, host, lora, UpscaleSettings(unet_tile=512, unet_overlap=256))
    assert 0 < (tiled - whole).abs().max() < 1e-4  # sums differ in their order, so some bits do


def test_result_is_sharper_than_bicubic_and_as_faithful(default: tuple[OwnHost, DfosdLora]) -> None:
    host, lora = default
    image = images.to_bchw(photograph("chelsea")[:, 40:296, 40:296])
    x_lq = images.resize(image, (64, 64)).clamp(0, 1)
    x_sr = images.to_bchw(upscale(images.to_bhwc(x_lq), host, lora))
    bicubic = images.resize(x_lq, (256, 256)).clamp(0, 1)

    def sharpness(x: Tensor) -> float:
        return float(x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean())

    def error(x: Tensor) -> float:
        return float((x - image).square().mean())

    assert sharpness(bicubic) * 1.1 < sharpness(x_sr) < sharpness(image) * 1.5
    assert error(x_sr) < error(bicubic) * 1.35  # 1.3 dB: what a perceptual loss may cost


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is stated for Linux")
def test_four_megapixels_fit_in_two_gigabytes() -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--size", "512", "--runs", "0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = re.search(r"peak (\d+) MiB", result.stdout)
    assert found
    assert int(found[1]) <= 2000
