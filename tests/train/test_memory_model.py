"""The estimate of a step's memory counts what it should, and the configurations keep within their cards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from benchmarks.memory_model import META, CudaAutocast, MetaNetworks, Peak, estimate
from benchmarks.random_base import write_zero_vgg
from benchmarks.train_memory import CARDS, CONFIGS
from train_tools.settings.config import RunConfig, ValidationConfig
from train_tools.settings.config_file import load_config

MIB = 2**20


def test_storages_are_counted_once_and_until_their_end() -> None:
    with Peak() as peak:
        x = torch.empty(MIB, device=META)
        view = x.view(2, -1)
        assert peak.now == 4 * MIB
        y = view * 2
        assert peak.now == 8 * MIB
        del x, view
        assert peak.now == 4 * MIB
        del y
    assert (peak.now, peak.peak) == (0, 8 * MIB)


def test_saved_activations_are_counted_and_checkpointing_saves_them() -> None:
    def block(x: torch.Tensor) -> torch.Tensor:
        return x.sigmoid().sigmoid().sigmoid().sigmoid()

    peaks: list[int] = []
    for checkpointing in (False, True):
        peak, autocast = Peak(), CudaAutocast()
        x = torch.empty(MIB, device=META, requires_grad=True)
        with autocast.in_place_of_torchs(), peak:
            y = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False) if checkpointing else block(x)
            peaks.append(peak.now)
            y.sum().backward()
    assert peaks == [16 * MIB, 4 * MIB]


def test_autocast_is_cudas() -> None:
    x, linear, norm = torch.empty(2, 8, 4, device=META), nn.Linear(4, 4).to(META), nn.GroupNorm(2, 8).to(META)
    with CudaAutocast().in_place_of_torchs(), torch.autocast("meta", dtype=torch.bfloat16):
        y = linear(x)
        assert y.dtype == torch.bfloat16
        assert norm(y).dtype == torch.float32
        assert F.scaled_dot_product_attention(x, x, x).dtype == torch.bfloat16
        with torch.autocast("meta", enabled=False):
            assert linear(x).dtype == torch.float32


@pytest.mark.parametrize("name", CARDS)
def test_configurations_of_cards_are_one_recipe(name: str) -> None:
    paper, card = (load_config(CONFIGS / f"{each}.yaml") for each in ("sd21_x4", name))
    assert (card.validation.pairs, card.validation.count) == (None, ValidationConfig().count)
    same = replace(
        card,
        data=replace(card.data, micro_batch=paper.data.micro_batch),
        run=replace(
            card.run,
            out=paper.run.out,
            gradient_checkpointing=RunConfig().gradient_checkpointing,
            checkpoint_every=paper.run.checkpoint_every,
        ),
    )
    assert same == paper


def test_smallest_card_is_large_enough(tmp_path: Path) -> None:
    vgg = write_zero_vgg(tmp_path / "vgg.safetensors")
    config = load_config(CONFIGS / "sd21_8gb.yaml", [f"loss.vgg={vgg}", "data.batch_size=2"])
    networks = MetaNetworks(config)
    assert networks.base_dtype == torch.bfloat16
    found = estimate(config, networks)
    assert 2.0 < found.rest / 2**30 < 2.2
    assert 5.5 < found.peak / 2**30 <= CARDS["sd21_8gb"]
