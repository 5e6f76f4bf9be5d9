"""Merging a LoRA: the right delta, all of it or an error, and every weight bit for bit as before."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfosd_core.errors import BaseModelMismatchError, LoraMismatchError
from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.merge import delta_weight, merged
from dfosd_core.lora.metadata import BaseLayout, LoraMetadata, check_base

LAYOUT = BaseLayout(
    context_dim=1024,
    in_channels=4,
    out_channels=4,
    latent_channels=4,
    latent_factor=8,
    block_out_channels=(320, 640, 1280, 1280),
    prediction_type="epsilon",
)


class Toy(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3)
        self.proj_in = nn.Conv2d(8, 8, 1)
        self.to_q = nn.Linear(8, 6, bias=False)
        self.to(dtype)


def pair(out: int, *inputs: int, rank: int = 2, alpha: float = 1.0) -> LoraPair:
    return LoraPair(down=torch.randn(rank, *inputs), up=torch.randn(out, rank, *(1 for _ in inputs[1:])), alpha=alpha)


def lora(pairs: dict[str, LoraPair], **parts: dict[str, Tensor]) -> DfosdLora:
    metadata = LoraMetadata(base_layout=LAYOUT, timestep=399, rank=2, lora_alpha=1.0)
    return DfosdLora(
        pairs={f"lora_unet_{name}": value for name, value in pairs.items()},
        prompt_embeds=torch.zeros(1, 1, 1024),
        metadata=metadata,
        **{part: {f"lora_unet_{name}": value for name, value in values.items()} for part, values in parts.items()},
    )


def bits(network: nn.Module) -> list[Tensor]:
    kinds = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
    return [p.detach().clone().view(kinds[p.dtype]) for p in network.parameters()]


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_delta_is_alpha_over_rank_times_the_product() -> None:
    value = pair(6, 8, rank=4, alpha=2.0)
    expected = 0.5 * (2.0 / 4) * value.up @ value.down
    torch.testing.assert_close(delta_weight(value, 0.5, torch.Size((6, 8))), expected)


def test_delta_of_a_convolution_is_the_two_convolutions_in_a_row() -> None:
    value = pair(8, 4, 3, 3, alpha=2.0)
    x = torch.randn(1, 4, 6, 6)
    in_a_row = nn.functional.conv2d(nn.functional.conv2d(x, value.down), value.up)
    delta = delta_weight(value, 1.0, torch.Size((8, 4, 3, 3)))
    torch.testing.assert_close(nn.functional.conv2d(x, delta), in_a_row, rtol=1e-4, atol=1e-4)


def test_delta_has_at_most_the_rank() -> None:
    assert torch.linalg.matrix_rank(delta_weight(pair(16, 16, rank=3), 1.0, torch.Size((16, 16)))) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_merged_weight_is_the_float32_sum_cast_once(dtype: torch.dtype) -> None:
    toy, value = Toy(dtype), pair(6, 8)
    expected = (toy.to_q.weight.float() + delta_weight(value, 0.7, torch.Size((6, 8)))).to(dtype)
    before = bits(toy)
    with merged({"lora_unet": toy}, lora({"to_q": value}), 0.7):
        assert torch.equal(toy.to_q.weight, expected)
        assert not same(before, bits(toy))
    assert same(before, bits(toy))


def test_linear_pair_fits_a_1x1_convolution() -> None:
    toy, value = Toy(), pair(8, 8)
    expected = toy.proj_in.weight.flatten(1) + delta_weight(value, 1.0, torch.Size((8, 8)))
    with merged({"lora_unet": toy}, lora({"proj_in": value}), 1.0):
        assert torch.equal(toy.proj_in.weight.flatten(1), expected)


def test_replaced_weight_comes_before_the_pair_on_it() -> None:
    toy, value, weight, bias = Toy(), pair(8, 4, 3, 3), torch.randn(8, 4, 3, 3), torch.randn(8)
    old_bias, before = toy.conv_in.bias, bits(toy)
    assert old_bias is not None
    mixed_bias = old_bias.detach() + 0.3 * (bias - old_bias.detach())
    changes = lora({"conv_in": value}, set_weights={"conv_in": weight}, set_biases={"conv_in": bias})
    with merged({"lora_unet": toy}, changes, 1.0):
        assert torch.equal(toy.conv_in.weight, weight + delta_weight(value, 1.0, weight.shape))
        assert torch.equal(old_bias, bias)
    with merged({"lora_unet": toy}, changes, 0.3):
        torch.testing.assert_close(old_bias.detach(), mixed_bias)
    assert same(before, bits(toy))


def test_vae_layers_go_to_the_vae() -> None:
    unet, vae, value = Toy(), Toy(), pair(6, 8)
    only_vae = dataclasses.replace(lora({}), pairs={"lora_vae_to_q": value})
    unet_before, vae_before = bits(unet), bits(vae)
    with merged({"lora_unet": unet, "lora_vae": vae}, only_vae, 1.0):
        assert same(unet_before, bits(unet))
        assert not same(vae_before, bits(vae))
    assert same(vae_before, bits(vae))


def test_strength_zero_keeps_even_the_sign_of_zero() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.to_q.weight.fill_(-0.0)
    before = bits(toy)
    with merged({"lora_unet": toy}, lora({"to_q": pair(6, 8)}), 0.0):
        assert same(before, bits(toy))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_weights_are_restored_bit_for_bit_after_an_error(error: type[BaseException]) -> None:
    toy = Toy(torch.float16)
    before = bits(toy)
    with (
        pytest.raises(error),
        merged({"lora_unet": toy}, lora({"to_q": pair(6, 8), "proj_in": pair(8, 8)}), 1.0),
    ):
        raise error
    assert same(before, bits(toy))


def test_weights_are_restored_when_merging_itself_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, calls = Toy(), 0
    before = bits(toy)

    def interrupted(value: LoraPair, *place: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return delta_weight(value, *place)

    monkeypatch.setattr("dfosd_core.lora.merge.delta_weight", interrupted)
    changes = lora({"to_q": pair(6, 8), "proj_in": pair(8, 8)})
    with pytest.raises(KeyboardInterrupt), merged({"lora_unet": toy}, changes, 1.0):
        pass
    monkeypatch.undo()
    assert calls == 2
    assert same(before, bits(toy))
    with merged({"lora_unet": toy}, changes, 1.0):
        assert not same(before, bits(toy))


def test_without_restoring_no_copy_is_made_and_no_other_lora_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, other, changes = Toy(), Toy(), lora({"to_q": pair(6, 8)})
    other.load_state_dict(toy.state_dict())
    copies: list[object] = []
    original = Tensor.to

    def noted(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copies.extend([self] if kwargs.get("copy") else [])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", noted)
    with merged({"lora_unet": other}, changes, 1.0):
        expected = bits(other)
    assert len(copies) == 1, "the test can see a copy"
    with merged({"lora_unet": toy}, changes, 1.0, restores=False):
        assert same(expected, bits(toy))
    assert len(copies) == 1
    assert same(expected, bits(toy))
    with pytest.raises(LoraMismatchError, match="already merged"), merged({"lora_unet": toy}, changes, 1.0):
        pass


def test_second_lora_on_the_same_base_is_refused_and_harms_nothing() -> None:
    toy, changes = Toy(), lora({"to_q": pair(6, 8)})
    before = bits(toy)
    with merged({"lora_unet": toy}, changes, 1.0):
        inside = bits(toy)
        with (
            pytest.raises(LoraMismatchError, match=r"already merged into this base\. Leave its `with` block"),
            merged({"lora_unet": toy}, changes, 1.0),
        ):
            pass
        assert same(inside, bits(toy))
    assert same(before, bits(toy))
    with merged({"lora_unet": toy}, changes, 1.0):
        assert same(inside, bits(toy))


def test_layers_without_a_place_are_counted_and_named() -> None:
    toy = Toy()
    before = bits(toy)
    changes = lora({"to_q": pair(6, 8), **{f"gone_{i}": pair(6, 8) for i in range(5)}, "conv_in": pair(8, 5, 3, 3)})
    with pytest.raises(LoraMismatchError) as error, merged({"lora_unet": toy}, changes, 1.0):
        pass
    assert str(error.value) == (
        "The LoRA does not fit this base: of 7 changes 1 have a place, 5 with no such layer: "
        "lora_unet_gone_0, lora_unet_gone_1, lora_unet_gone_2 and 2 more; 1 with wrong shape: "
        "lora_unet_conv_in ((8, 2, 1, 1) x (2, 5, 3, 3) for (8, 4, 3, 3)). "
        "Load the base the LoRA was trained on."
    )
    assert same(before, bits(toy))


def test_replacement_of_another_shape_or_of_a_missing_bias_is_refused() -> None:
    toy = Toy()
    wrong_shape = lora({}, set_weights={"conv_in": torch.zeros(8, 9, 3, 3)})
    with (
        pytest.raises(LoraMismatchError, match=r"\(8, 9, 3, 3\) for \(8, 4, 3, 3\)"),
        merged({"lora_unet": toy}, wrong_shape, 1),
    ):
        pass
    no_bias = lora({}, set_biases={"to_q": torch.zeros(6)})
    with (
        pytest.raises(LoraMismatchError, match="no such layer: lora_unet_to_q"),
        merged({"lora_unet": toy}, no_bias, 1),
    ):
        pass


def test_only_a_base_that_differs_in_nothing_is_accepted() -> None:
    check_base(LAYOUT, dataclasses.replace(LAYOUT))
    others = {name: value + 1 for name, value in vars(LAYOUT).items() if isinstance(value, int)}
    others |= {"block_out_channels": (320, 640), "prediction_type": "v_prediction"}
    assert others.keys() == vars(LAYOUT).keys()
    for name, value in others.items():
        with pytest.raises(BaseModelMismatchError, match=f": {name} .+ != "):
            check_base(LAYOUT, dataclasses.replace(LAYOUT, **{name: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prediction_type": "v_prediction"},
            r"SD 2\.x \(context 1024, v-prediction\): prediction_type epsilon != v_prediction",
        ),
        ({"context_dim": 768}, r"loaded base is SD 1\.x \(context 768, epsilon\): context_dim 1024 != 768"),
        ({"context_dim": 2048}, r"loaded base is SDXL \(context 2048, epsilon\)"),
        ({"in_channels": 9}, r"SD 2\.x, inpainting or depth \(context 1024, epsilon\): in_channels 4 != 9"),
        ({"latent_factor": 4}, r"loaded base is another model"),
    ],
)
def test_other_base_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    other = dataclasses.replace(LAYOUT, **change)
    with pytest.raises(BaseModelMismatchError, match=message) as error:
        check_base(LAYOUT, other, "LoRA 'x4.safetensors'")
    text = str(error.value)
    assert text.startswith("LoRA 'x4.safetensors' was trained for SD 2.x (context 1024, epsilon) but")
    assert text.endswith("Load the base the LoRA was trained on (Stable Diffusion 2.1-base, the 512 px epsilon model).")
    assert "\n" not in text
