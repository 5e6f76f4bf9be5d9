"""The discriminators by name: SDXL's size and map, the three heads, and the pixel CNN."""

from __future__ import annotations

import pytest
import torch
from support.small_networks import RANK, rng, small_unet
from torch import nn

from dfosd_core.errors import ConfigError
from dfosd_core.training.base import build_unet
from dfosd_core.training.discriminators import make_discriminator
from dfosd_core.training.heads import Head
from dfosd_core.training.lora_layers import LoraLayer
from dfosd_core.training.nad import fresh_weights
from dfosd_core.training.pixel_discriminator import PixelDiscriminator
from dfosd_core.training.sdxl import SDXL_UNET, SdxlDiscriminator


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_counts_on_sdxl_equal_the_measured_ones() -> None:
    discriminator = SdxlDiscriminator(build_unet(SDXL_UNET), rng=rng())
    layers = [m for m in discriminator.modules() if isinstance(m, LoraLayer)]
    lora = sum(layer.down_weight.numel() + layer.up_weight.numel() for layer in layers)
    frozen = size(discriminator.backbone) - lora
    assert len(layers) == discriminator.lora_layers == 378
    assert round(lora / 1e6, 2) == 23.50
    assert round(frozen / 1e6, 1) == 1243.4
    trainable = sum(p.numel() for p in discriminator.parameters() if p.requires_grad)
    assert trainable == lora + size(discriminator.head), "its conditions are constants"


def test_sdxl_map_is_16x16_for_a_latent_of_64x64() -> None:
    discriminator = SdxlDiscriminator(build_unet(SDXL_UNET), rng=rng()).to("meta")
    features = discriminator.features(torch.empty(1, 4, 64, 64, device="meta"), torch.empty(1, device="meta"))
    assert features.shape == (1, 1280, 16, 16)


@pytest.mark.parametrize(
    ("kind", "edge", "parameters"),
    [
        ("pointwise", 8, 1280 * 1280 + 1280 + 1280 + 1),
        ("conv", 6, 16 * 1280 * 2560 + 2560 + 2 * 2560 + 16 * 2560 + 1),  # about 52.5 M
        ("strided", 4, 16 * 1280 * 1280 + 1280 + 2 * 1280 + 1280 + 1),
    ],
)
def test_head_has_its_grid_and_size_on_sd21(kind: str, edge: int, parameters: int) -> None:
    head = Head(kind, 1280, rng())  # type: ignore[arg-type]
    assert size(head) == parameters
    with torch.no_grad():
        logits = head(torch.randn(1, 1280, 8, 8))
    assert logits.shape == (1, 1, edge, edge)
    assert logits.std() > 0.01, "no layer starts at zero"


@pytest.mark.parametrize("kind", ["pointwise", "conv", "strided"])
def test_head_works_on_the_embedded_bases_width(kind: str) -> None:
    assert Head(kind, 160, rng())(torch.randn(2, 160, 12, 12)).isfinite().all()  # type: ignore[arg-type]


def test_map_that_is_too_small_for_a_head_is_named() -> None:
    with pytest.raises(ConfigError, match=r"head 'conv' needs a mid-block map of 3x3 or more, found 2x2"):
        Head("conv", 32, rng())(torch.randn(1, 32, 2, 2))


@pytest.mark.parametrize("kind", ["nad", "nad_random", "pixel"])
def test_equal_seeds_give_equal_networks(kind: str) -> None:
    first, second = (make(kind) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_random_nad_has_the_nads_shape_none_of_its_weights_and_trains_all() -> None:
    kept = {name: value.clone() for name, value in small_unet().state_dict().items()}
    prior, random = make("nad"), make("nad_random")
    z, t_noise = torch.randn(1, 4, 16, 16), torch.tensor([7])
    assert prior(z, t_noise).shape == random(z, t_noise).shape
    assert not any(isinstance(module, LoraLayer) for module in random.modules())
    for name, value in random.state_dict().items():
        inner = name.removeprefix("backbone.")
        if inner in kept and value.ndim > 1:
            assert not torch.allclose(value, kept[inner]), name
    assert all(parameter.requires_grad for parameter in random.parameters())
    unet = small_unet()
    state = torch.get_rng_state()
    fresh_weights(unet, rng())
    assert torch.equal(state, torch.get_rng_state())  # nobody else's numbers change
    assert all(torch.equal(value, kept[name]) for name, value in unet.state_dict().items())


def test_none_is_none() -> None:
    assert (
        make_discriminator(
            "none", small_unet(), prompt_embeds=None, rank=RANK, lora_alpha=RANK, head="pointwise", rng=rng()
        )
        is None
    )


def test_sdxl_on_another_autoencoder_is_refused() -> None:
    unet = small_unet()
    unet.register_to_config(in_channels=16)
    with pytest.raises(ConfigError, match="judges latents of 4 channels, found a base with 16"):
        make_discriminator(
            "sdxl",
            unet,
            sdxl_unet=build_unet(SDXL_UNET),
            prompt_embeds=None,
            rank=RANK,
            lora_alpha=RANK,
            head="pointwise",
            rng=rng(),
        )


def test_unet_that_is_not_sdxls_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected SDXL's UNet"):
        SdxlDiscriminator(small_unet(), rng=rng())


def test_pixel_discriminator_scores_patches_and_names_the_smallest_crop() -> None:
    discriminator, t_noise = make("pixel"), torch.tensor([0])
    assert discriminator(torch.randn(1, 3, 64, 64), t_noise).shape == (1, 1, 6, 6)
    with pytest.raises(ConfigError, match="needs crops of 24 pixels or more, found 16x16"):
        discriminator(torch.randn(1, 3, 16, 16), t_noise)


def test_pixel_discriminator_is_a_patch_gan_of_70_pixels() -> None:
    """Isola et al. 2017 (arXiv 1611.07004), section 6.1.2: C64-C128-C256-C512. The last is half as wide here."""
    discriminator = PixelDiscriminator(rng=rng())
    convolutions = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [64, 128, 256, 512 // 2, 1]
    x = torch.randn(1, 3, 128, 128, generator=rng(), requires_grad=True)
    (seen,) = torch.autograd.grad(discriminator(x, torch.tensor([0]))[0, 0, 7, 7], x)
    rows, columns = (int(seen.abs().sum((0, 1, axis)).count_nonzero()) for axis in (3, 2))
    assert (rows, columns) == (70, 70)


def make(kind: str) -> nn.Module:
    discriminator = make_discriminator(
        kind,  # type: ignore[arg-type]
        small_unet(),
        prompt_embeds=None,
        rank=RANK,
        lora_alpha=RANK,
        head="pointwise",
        rng=rng(3),
    )
    assert discriminator is not None
    return discriminator
