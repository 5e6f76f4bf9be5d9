"""Stable Diffusion 2.1-base's layout at full size, random weights: our way is the plain diffusers
computation, exactly restored.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.diffusers_host import DiffusersHost
from support.tiny_models import random_lora
from torch import Tensor, nn

from benchmarks.random_base import random_half, save_part
from dfosd_core.hosts.own import OwnHost, load_base
from dfosd_core.lora.file import DfosdLora
from dfosd_core.lora.names import LORA_TARGETS, kohya_name, ldm_unet_key, ldm_vae_key
from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.pipeline import UpscaleSettings, upscale
from dfosd_core.training.base import build_unet, build_vae, read_training_base

# A minute on an idle machine, many on a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TOLERANCE = 1e-4
"""In the image of [0, 1], float32: the LoRA merged is another order of the same sums."""
SETTINGS = UpscaleSettings(color_fix="none")
UP_HAS_ATTENTION = (False, True, True, True)


def random_weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(UNet's, VAE's), by diffusers' names."""
    return random_half(build_unet(unet_config()), 0), random_half(build_vae(vae_config()), 1)


def write_folder(place: Path, unet: dict[str, Tensor], vae: dict[str, Tensor]) -> Path:
    """The weights as a diffusers folder (float16, 1.9 GB)."""
    save_part(unet, unet_config(), place / "folder" / "unet")
    save_part(vae, vae_config(), place / "folder" / "vae")
    return place / "folder"


def write_file(place: Path, unet: dict[str, Tensor], vae: dict[str, Tensor]) -> Path:
    """The same weights as a single file by LDM's names (float16, 1.9 GB)."""
    ldm = {f"model.diffusion_model.{ldm_unet_key(k, 2, UP_HAS_ATTENTION)}": v for k, v in unet.items()}
    for key, value in vae.items():
        is_linear = ".attentions." in key and value.ndim == 2
        ldm[f"first_stage_model.{ldm_vae_key(key, 4)}"] = value[:, :, None, None] if is_linear else value
    safetensors.torch.save_file(ldm, place / "sd21.safetensors")
    return place / "sd21.safetensors"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that leaves nothing of its gigabytes behind, whatever happens."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def holds(host: OwnHost, *weights: dict[str, Tensor]) -> bool:
    """Whether the host's weights are these, bit for bit."""
    pairs = zip((host.unet, host.vae), weights, strict=True)
    return all(
        torch.equal(value, expected[name].float())
        for model, expected in pairs
        for name, value in model.named_parameters()
    )


def plain_diffusers(host: DiffusersHost, lora: DfosdLora, image: Tensor) -> Tensor:
    """The paper's equation with diffusers and unmerged peft layers, written out; changes the host's UNet."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=lora.metadata.rank, lora_alpha=lora.metadata.lora_alpha, target_modules=list(LORA_TARGETS)
    )
    unet = peft.inject_adapter_in_model(config, host.unet)
    wrapped = {name: m for name, m in unet.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(wrapped) == len(lora.pairs) == 278
    with torch.no_grad():
        for name, layer in wrapped.items():
            layer.lora_A["default"].weight.copy_(lora.pairs[kohya_name(name)].down)
            layer.lora_B["default"].weight.copy_(lora.pairs[kohya_name(name)].up)
        size = (4 * image.shape[1], 4 * image.shape[2])
        x_lr = nn.functional.interpolate(image.permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
        z_lr = host.vae.encode(x_lr.clamp(0, 1) * 2 - 1).latent_dist.mean * 0.18215
        eps = unet(z_lr, 399, encoder_hidden_states=lora.prompt_embeds).sample
        # The schedule of Stable Diffusion by hand, and its value at T_L = 399.
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar_t = torch.cumprod(1 - beta, 0)[399].item()
        z_sr = (z_lr - (1 - alpha_bar_t) ** 0.5 * eps) / alpha_bar_t**0.5
        x_sr = host.vae.decode(z_sr / 0.18215).sample
    return (x_sr / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def test_image_is_the_plain_computations_and_the_weights_come_back(place: Path) -> None:
    weights = random_weights()
    folder = write_folder(place, *weights)
    image = torch.rand(1, 16, 12, 3, generator=torch.Generator().manual_seed(2))
    host = load_base(folder)
    assert host.layout.block_out_channels == (320, 640, 1280, 1280)
    lora = random_lora(host, rank=16)
    assert holds(host, *weights)
    ours = upscale(image, host, lora, SETTINGS)
    assert holds(host, *weights)
    base = upscale(image, host, lora, UpscaleSettings(color_fix="none", strength=0.0))
    inside = ((ours > 0) & (ours < 1)).float().mean().item()
    effect = (ours - base).abs().mean().item()
    del host
    theirs = DiffusersHost(*read_training_base(folder))
    difference = (ours - plain_diffusers(theirs, lora, image)).abs().max().item()
    del theirs
    gc.collect()
    shutil.rmtree(folder)  # one of the two at a time: a full disk broke this test off
    again = upscale(image, load_base(write_file(place, *weights)), lora, SETTINGS)
    print(f"difference {difference:.2e}, LoRA's mean effect {effect:.3f}, not clamped {inside:.0%}")  # noqa: T201
    assert difference <= TOLERANCE
    assert effect > 100 * TOLERANCE
    assert inside > 0.5
    assert torch.equal(again, ours)
