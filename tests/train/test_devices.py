"""Nothing in a training step waits for the device, mixes devices or reads a value back: on torch's meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from support.meta_device import META, Traffic, recipe_on_meta, traffic_of_a_step
from support.small_networks import RANK, rng
from support.training_runs import config

from benchmarks.memory_model import MetaNetworks
from benchmarks.random_base import write_zero_vgg
from benchmarks.train_memory import CONFIGS
from dfosd_core.hosts.own import OwnHost
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.pipeline import UpscaleSettings, upscale_attached
from dfosd_core.training.base import build_unet, own_networks, read_training_base
from dfosd_core.training.discriminators import DiscriminatorKind
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.heads import HeadKind
from dfosd_core.training.losses import PERCEPTUAL_TERMS
from dfosd_core.training.sdxl import SDXL_UNET
from train_tools.loop import networks
from train_tools.settings.config import TrainConfig
from train_tools.settings.config_file import load_config

BLOCKING_COPIES = 2
"""Allowed in a micro-batch."""


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16's convolutions, all zero."""
    return write_zero_vgg(tmp_path_factory.mktemp("vgg") / "vgg.safetensors")


MODES: dict[str, dict[str, Any]] = {
    **{f"discriminator {kind}": {"discriminator": {"kind": kind}} for kind in get_args(DiscriminatorKind)},
    **{f"head {head}": {"discriminator": {"head": head}} for head in get_args(HeadKind)},
    **{f"perceptual {name}": {"loss": {"perceptual": name}} for name in PERCEPTUAL_TERMS},
    "checkpointing": {"run": {"gradient_checkpointing": True}},
    "averaged": {"optim": {"ema": 0.999}},
    "contiguous": {"run": {"channels_last": False}},
}
"""What a run can consist of. A new kind is here as soon as a configuration takes it."""
SDXL = {
    **SDXL_UNET,
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (1, 2, 2),
    "transformer_layers_per_block": 1,
}


def settings_of(mode: str, material: Path, vgg: Path) -> TrainConfig:
    changes = {section: dict(values) for section, values in MODES[mode].items()}
    changes["data"] = {"crop": 32, "micro_batch": 2}
    if mode == "discriminator sdxl":
        changes["discriminator"]["base"] = vgg  # not read: see below
    changes.setdefault("loss", {})["vgg"] = vgg
    return config(material, material / "out", **changes)


@pytest.mark.parametrize("mode", MODES)
def test_step_waits_for_no_copy_and_reads_nothing_back(
    mode: str, material: Path, vgg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "read_sdxl_unet", lambda *_: build_unet(SDXL))
    recipe = recipe_on_meta(settings_of(mode, material, vgg))
    terms = recipe.active_terms(0)
    assert terms.adversarial == (mode != "discriminator none")
    assert terms.perceptual == ("dists" in mode)
    micro_batches = 2
    traffic_of_a_step(recipe, 1)  # tables that are kept come to the device once
    traffic = traffic_of_a_step(recipe, micro_batches)
    assert len(traffic.blocking) <= BLOCKING_COPIES * micro_batches, traffic.blocking
    # x_lr and x_hr at least: the test can see copies.
    assert len(traffic.queued) >= 2 * micro_batches


def test_step_of_sd21_waits_for_no_copy(vgg: Path) -> None:
    # Stable Diffusion 2.1's own layers, as the smallest card trains them. How many copies is no matter of the crop.
    changes = [f"loss.vgg={vgg}", "data.crop=64", "discriminator.from_step=0", "discriminator.warmup_steps=0"]
    settings = load_config(CONFIGS / "sd21_8gb.yaml", changes)
    recipe = recipe_on_meta(settings, MetaNetworks(settings))
    traffic_of_a_step(recipe, 1)
    traffic = traffic_of_a_step(recipe, 1)
    assert len(traffic.blocking) <= BLOCKING_COPIES, traffic.blocking
    assert len(traffic.queued) >= 2


def test_copies_that_wait_mixed_devices_and_values_read_back_are_seen() -> None:
    with Traffic() as traffic:
        on_device = torch.zeros(3).to(META)
        on_device.new_tensor([1.0, 2.0])
        torch.tensor([7], device=META)
        torch.zeros(4).to(META, non_blocking=True)
        assert (traffic.blocking, traffic.queued) == (["(3,)", "(2,)", "(1,)"], ["(4,)"])
        with pytest.raises((AssertionError, RuntimeError)):
            torch.add(on_device, torch.zeros(3))
        with pytest.raises((AssertionError, RuntimeError)):
            on_device.sum().item()


def test_pipeline_stays_on_the_device(material: Path) -> None:
    base = read_training_base(material / "base", META)
    generator = DfosdGenerator(base.vae, base.unet, rank=RANK, lora_alpha=RANK, rng=rng())
    lora = generator.export_lora(
        LoraMetadata(base_layout=base.layout, timestep=generator.t, rank=RANK, lora_alpha=RANK)
    )
    # The LoRA is not attached: a copy of each changed weight would go to the CPU, from which it is restored.
    host = OwnHost(*own_networks(base.unet, base.vae), base.layout)
    with Traffic() as traffic:
        image = upscale_attached(torch.zeros(1, 16, 16, 3, device=META), host, lora, UpscaleSettings(scale=2))
    assert (image.device, image.shape) == (META, (1, 32, 32, 3))
    assert len(traffic.blocking) <= BLOCKING_COPIES, traffic.blocking
