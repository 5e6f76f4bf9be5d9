"""For the tests of training: small networks in Stable Diffusion's layout, and seeded inputs."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.nad import Nad

RANK = 4
TOKENS = 5
CONTEXT_DIM = 16


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_unet(levels: int = 2) -> UNet2DConditionModel:
    """SD's block types; four levels have SD 2.1's layout down to the last attention-free one."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64)[:levels],
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        layers_per_block=1,
        cross_attention_dim=CONTEXT_DIM,
        attention_head_dim=8,
        use_linear_projection=True,
        # Not one channel a group: that would take out the time embedding, which is constant over the map.
        norm_num_groups=8,
    )


def small_vae() -> AutoencoderKL:
    """f = 2."""
    torch.manual_seed(1)
    return cast("Any", AutoencoderKL)(  # whose annotations say tuples of one
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
    )


def small_pair(*, checkpointing: bool = False) -> tuple[DfosdGenerator, Nad]:
    """Generator and discriminator over one base."""
    unet = small_unet()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    prompt = torch.randn(1, TOKENS, CONTEXT_DIM, generator=rng())
    generator = DfosdGenerator(small_vae(), unet, prompt_embeds=prompt, rank=RANK, lora_alpha=RANK, rng=rng(1))
    return generator, Nad(unet, prompt_embeds=prompt, rank=RANK, lora_alpha=RANK, rng=rng(2))


def images(seed: int = 0, batch: int = 2, size: int = 16) -> Tensor:
    """(B, 3, size, size) in [-1, 1]."""
    return torch.rand(batch, 3, size, size, generator=rng(seed)) * 2 - 1


def snapshot(network: nn.Module, *, trainable: bool) -> dict[str, Tensor]:
    parameters = network.named_parameters()
    return {name: p.detach().clone() for name, p in parameters if p.requires_grad is trainable}
