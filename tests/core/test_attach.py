"""The slider "fidelity or realism" before it meets a host: parts of a LoRA, one pass or two, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dfosd_core.attach import attached, weighted
from dfosd_core.errors import ConfigError, LoraFormatError
from dfosd_core.lora.file import DfosdLora, LoraPair, load_lora, save_lora
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.parts import PIXEL, SEMANTIC, scaled
from dfosd_core.settings import UpscaleSettings

LAYERS = {"lora_unet_conv_in": (2, 2), "lora_unet_conv_out": ()}
PARTS = {SEMANTIC: 1, PIXEL: 2}
"""In this order, which is not the alphabet's."""


def two_part_lora(host: Any, **changes: Any) -> DfosdLora:
    generator = torch.Generator().manual_seed(5)
    pairs = {
        layer: LoraPair(
            down=torch.randn(3, 4, *size, generator=generator),
            up=torch.randn(5, 3, *(1 for _ in size), generator=generator),
            alpha=6.0,
        )
        for layer, size in LAYERS.items()
    }
    metadata = LoraMetadata(base_layout=host.layout, timestep=1, rank=3, lora_alpha=6.0, parts=PARTS, source="PiSA-SR")
    lora = DfosdLora(pairs=pairs, prompt_embeds=torch.zeros(1, 2, host.layout.context_dim), metadata=metadata)
    return dataclasses.replace(lora, **changes)


def delta(lora: DfosdLora, rows: slice = slice(None)) -> list[Tensor]:
    return [
        pair.alpha / pair.rank * pair.up.flatten(1)[:, rows] @ pair.down.flatten(1)[rows]
        for pair in lora.pairs.values()
    ]


def test_parts_are_scaled_each_by_itself(make_host: Callable[..., Any]) -> None:
    lora = two_part_lora(make_host(8))
    found = delta(scaled(lora, {SEMANTIC: 0.5, PIXEL: 3.0}))
    first, second = delta(lora, slice(0, 1)), delta(lora, slice(1, 3))
    for a, b, c in zip(found, first, second, strict=True):
        torch.testing.assert_close(a, 0.5 * b + 3.0 * c)
    assert [pair.up.shape for pair in scaled(lora, {PIXEL: 2.0}).pairs.values()] == [(5, 3, 1, 1), (5, 3)]
    assert scaled(lora, {PIXEL: 1.0}) is lora
    with pytest.raises(KeyError):
        scaled(lora, {"other": 0.5})


def test_parts_survive_the_file_in_their_order(make_host: Callable[..., Any], tmp_path: Path) -> None:
    lora = two_part_lora(make_host(8))
    again = load_lora(save_lora(tmp_path / "x.safetensors", lora))
    assert again == lora
    assert list(again.metadata.parts.items()) == list(PARTS.items())
    plain = dataclasses.replace(lora.metadata, parts={})
    assert "dfosd.parts" not in plain.to_header()


@pytest.mark.parametrize(
    "text", ["7", '["pixel"]', '[["pixel","4"]]', '[["pixel",0]]', '[["pixel",true]]', '[["a",4]]', "["]
)
def test_damaged_parts_are_refused(make_host: Callable[..., Any], tmp_path: Path, text: str) -> None:
    lora = two_part_lora(make_host(8))
    header = lora.metadata.to_header() | {"dfosd.parts": text}
    with pytest.raises((LoraFormatError, ValueError)) as caught:
        dataclasses.replace(lora, metadata=LoraMetadata.from_header(header, "x.safetensors"))
    assert "\n" not in str(caught.value)


class Recorder:
    """A host that notes which LoRA is on when it is asked for a prediction."""

    def __init__(self, host: Any) -> None:
        self.host, self.on, self.calls, self.changes = host, list[DfosdLora](), list[float](), 0
        self.layout, self.name, self.size_multiple_px = host.layout, host.name, host.size_multiple_px
        self.fails = False

    @contextmanager
    def lora(self, lora: DfosdLora, strength: float) -> Iterator[None]:
        assert not self.on
        if self.fails:
            raise torch.OutOfMemoryError("no room")
        assert strength == 1.0
        self.on.append(lora)
        self.changes += 1
        try:
            yield
        finally:
            self.on.pop()

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        value = sum(change.square().sum().item() for change in delta(self.on[0]))
        self.calls.append(value)
        return torch.full_like(z, value)

    def encode(self, x: Tensor) -> Tensor:
        assert len(self.on) == 1
        return x

    decode = encode


def test_two_passes_combine_by_the_rule_and_change_the_lora_once_a_tile(make_host: Callable[..., Any]) -> None:
    host = Recorder(make_host(8))
    lora = two_part_lora(host)
    pix, full = (
        sum(change.square().sum().item() for change in changes) for changes in (delta(lora, slice(1, 3)), delta(lora))
    )
    z = torch.zeros(1, 4, 2, 2)
    with attached(host, lora, UpscaleSettings(strength=0.25, pixel_strength=1.5)) as both:  # pyright: ignore[reportArgumentType]
        both.encode(z)
        for _ in range(3):
            eps = both.predict_eps(z, 1, lora.prompt_embeds)
            torch.testing.assert_close(eps, torch.full_like(z, 1.5 * pix + 0.25 * (full - pix)), rtol=1e-6, atol=0)
        both.decode(z)
        assert (both.layout, both.name, both.size_multiple_px) == (host.layout, host.name, host.size_multiple_px)
    assert host.calls == pytest.approx([full, pix, pix, full, full, pix], rel=1e-6)
    assert host.changes == 4
    assert host.on == []


def test_two_passes_recover_when_a_change_of_loras_fails(make_host: Callable[..., Any]) -> None:
    host = Recorder(make_host(8))
    lora, z = two_part_lora(host), torch.zeros(1, 4, 2, 2)
    with attached(host, lora, UpscaleSettings(pixel_strength=1.0)) as both:  # pyright: ignore[reportArgumentType]
        expected = both.predict_eps(z, 1, lora.prompt_embeds)
        host.fails = True
        with pytest.raises(torch.OutOfMemoryError):
            both.predict_eps(z, 1, lora.prompt_embeds)
        host.fails = False
        assert torch.equal(both.predict_eps(z, 1, lora.prompt_embeds), expected)
    assert host.on == []


def test_one_strength_is_the_hosts_own_but_for_a_lora_of_parts(make_host: Callable[..., Any]) -> None:
    lora = two_part_lora(make_host(8))
    plain = dataclasses.replace(lora, metadata=dataclasses.replace(lora.metadata, parts={}))
    assert weighted(plain, 0.3) == (plain, 0.3)
    assert weighted(lora, 1.0)[0] is lora
    found, strength = weighted(lora, 0.3)
    assert strength == 1.0
    assert found == scaled(lora, {SEMANTIC: 0.3})


def test_pixel_strength_of_another_lora_is_refused(make_host: Callable[..., Any]) -> None:
    host = make_host(8)
    lora = two_part_lora(host)
    plain = dataclasses.replace(lora, metadata=dataclasses.replace(lora.metadata, parts={}, source="OSEDiff"))
    with pytest.raises(ConfigError) as caught, attached(host, plain, UpscaleSettings(pixel_strength=0.5)):
        pass
    assert str(caught.value) == (
        "Expected no pixel_strength with this LoRA of OSEDiff, found 0.5: it has no pixel part, as PiSA-SR's does. "
        "Leave it out, and set strength."
    )
    assert host.attached == []
