"""The noise-aware discriminator: its size on SD 2.1, its map, and that it is noise-aware."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.small_networks import CONTEXT_DIM, RANK, rng, small_pair, small_unet

from dfosd_core.networks.sd_configs import unet_config
from dfosd_core.training.base import build_unet
from dfosd_core.training.lora_layers import LoraLayer
from dfosd_core.training.nad import Nad


def test_counts_on_sd21_equal_the_measured_ones() -> None:
    nad = Nad(build_unet(unet_config()), rng=rng())
    frozen = sum(p.numel() for p in nad.parameters() if not p.requires_grad)
    layers = [m for m in nad.modules() if isinstance(m, LoraLayer)]
    lora = sum(layer.down_weight.numel() + layer.up_weight.numel() for layer in layers)
    assert len(layers) == nad.lora_layers == 119
    assert round(frozen / 1e6, 2) == 351.66
    assert round(lora / 1e6, 3) == 6.875
    assert nad.prompt_embeds.shape == (1, 77, 1024)
    trainable = sum(p.numel() for p in nad.parameters() if p.requires_grad)
    assert trainable == lora + 77 * 1024 + (1280 * 1280 + 1280) + (1280 + 1)


def test_map_is_8x8_for_a_latent_of_64x64() -> None:
    nad = Nad(small_unet(levels=4), rank=RANK, lora_alpha=RANK, rng=rng())
    t_noise = torch.tensor([10, 900])
    with torch.no_grad():
        logits = nad(torch.randn(2, 4, 64, 64), t_noise)
    assert logits.shape == (2, 1, 8, 8)
    assert logits.std() > 0.01, "the head is not zero at the start"


def test_features_equal_the_mid_block_of_the_whole_unet() -> None:
    unet = small_unet()
    nad = Nad(unet, rank=RANK, lora_alpha=RANK, rng=rng())
    seen: list[Any] = []
    unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    z, t_noise = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        unet(z, t_noise, nad.prompt_embeds.expand(2, -1, -1))
        torch.testing.assert_close(nad.features(z, t_noise), seen[0])


def test_works_on_a_base_without_attention() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=CONTEXT_DIM,
        norm_num_groups=8,
    )
    logits = Nad(unet, rank=RANK, lora_alpha=RANK, rng=rng())(torch.randn(1, 4, 8, 8), torch.tensor([3]))
    assert logits.shape == (1, 1, 4, 4)


def test_logits_respond_to_the_timestep_and_to_the_prompt() -> None:
    _, nad = small_pair()
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        low, high = nad(z, torch.tensor([10])), nad(z, torch.tensor([900]))
        nad.prompt_embeds.mul_(-3)
        other = nad(z, torch.tensor([10]))
    assert (low - high).abs().max() > 1e-3
    assert (low - other).abs().max() > 1e-5


def test_each_image_is_scored_at_its_own_timestep() -> None:
    _, nad = small_pair()
    z = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        both = nad(z, torch.tensor([10, 900]))
        alone = torch.cat([nad(z[:1], torch.tensor([10])), nad(z[1:], torch.tensor([900]))])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


def test_generator_and_discriminator_hold_the_base_once() -> None:
    generator, nad = small_pair()
    generator_base = {p.data_ptr() for p in generator.unet.parameters() if not p.requires_grad}
    nad_base = {p.data_ptr() for p in nad.parameters() if not p.requires_grad}
    assert nad_base < generator_base
    generator_lora = {p.data_ptr() for p in generator.parameters() if p.requires_grad}
    assert generator_lora.isdisjoint(p.data_ptr() for p in nad.parameters() if p.requires_grad)


@pytest.mark.parametrize("autocast", [False, True])
def test_logits_are_float32(autocast: bool) -> None:
    _, nad = small_pair()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert nad(torch.randn(1, 4, 8, 8), torch.tensor([3])).dtype == torch.float32
