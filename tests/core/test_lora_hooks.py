"""Hooks give what merged weights give, and leave nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dfosd_core.errors import LoraMismatchError
from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.hooks import hooked
from dfosd_core.lora.merge import merged
from dfosd_core.lora.metadata import BaseLayout, LoraMetadata
from dfosd_core.lora.names import UNET_PREFIX, kohya_table

LAYOUT = BaseLayout(
    context_dim=8,
    in_channels=3,
    out_channels=3,
    latent_channels=3,
    latent_factor=8,
    block_out_channels=(6,),
    prediction_type="epsilon",
)


class Network(nn.Module):
    """One of each kind of layer that a LoRA lies on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 6, 3, stride=2, padding=1, padding_mode="circular")
        self.proj_in = nn.Conv2d(6, 6, 1)
        self.to_q = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_q(self.proj_in(self.down(self.conv_in(x))).movedim(1, -1))


def pair(outputs: int, *inputs: int) -> LoraPair:
    down, up = torch.randn(2, *inputs), torch.randn(outputs, 2, *[1] * (len(inputs) - 1))
    return LoraPair(down=0.3 * down, up=0.3 * up, alpha=3.0)


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    yield network
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.fixture
def lora() -> DfosdLora:
    return DfosdLora(
        pairs={
            "lora_unet_conv_in": pair(6, 3, 3, 3),
            "lora_unet_down": pair(6, 6, 3, 3),
            "lora_unet_proj_in": pair(6, 6),  # linear, as SD 2.x has it
            "lora_unet_to_q": pair(6, 6, 1, 1),  # a convolution, as SD 1.x has it
        },
        prompt_embeds=torch.zeros(1, 1, 8),
        metadata=LoraMetadata(base_layout=LAYOUT, timestep=199, rank=2, lora_alpha=3.0),
        set_weights={"lora_unet_conv_in": torch.randn(6, 3, 3, 3)},
        set_biases={"lora_unet_conv_in": torch.randn(6), "lora_unet_proj_in": torch.randn(6)},
    )


def layers(network: Network) -> dict[str, nn.Module]:
    return {kohya: network.get_submodule(name) for kohya, name in kohya_table(network).items()}


@pytest.mark.parametrize("strength", [1.0, 0.3, 2.0])
def test_hooks_equal_merged_weights(network: Network, lora: DfosdLora, strength: float) -> None:
    x = torch.randn(2, 3, 8, 10)
    with torch.no_grad():
        with hooked(layers(network), lora, strength):
            hooks = network(x)
        with merged({UNET_PREFIX: network}, lora, strength):
            expected = network(x)
    torch.testing.assert_close(hooks, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(hooks, network(x), atol=0.1)


def test_strength_zero_changes_no_bit(network: Network, lora: DfosdLora) -> None:
    x = torch.randn(1, 3, 8, 8)
    expected = network(x)
    with hooked(layers(network), lora, 0.0):
        assert torch.equal(network(x), expected)


def test_hooks_follow_the_numbers_format(network: Network, lora: DfosdLora) -> None:
    """Half precision, and back: the factors go with the input."""
    x = torch.randn(1, 3, 8, 8)
    own = copy.deepcopy(network)
    with torch.no_grad(), hooked(layers(own), lora, 1.0):
        exact = own(x)
        half = own.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_hooks_are_gone_after_an_error(network: Network, lora: DfosdLora) -> None:
    with pytest.raises(KeyboardInterrupt), hooked(layers(network), lora, 1.0):
        raise KeyboardInterrupt
    assert not any(module._forward_hooks for module in network.modules())


def test_a_lora_without_a_place_is_refused_before_any_hook(network: Network, lora: DfosdLora) -> None:
    found = layers(network)
    del found["lora_unet_to_q"]
    with pytest.raises(LoraMismatchError, match="1 with no such layer: lora_unet_to_q"), hooked(found, lora, 1.0):
        pass


def test_hooks_follow_the_device(network: Network, lora: DfosdLora) -> None:
    """On the meta device, which every machine has; and they stay there for the next tile."""
    own = copy.deepcopy(network)
    with torch.no_grad(), hooked(layers(own), lora, 1.0):
        own.to("meta")
        for _ in range(2):
            assert own(torch.empty(1, 3, 8, 8, device="meta")).device.type == "meta"
