"""Where a number format overflows, the stage is repeated in a wider one: the result is right, and one line says so."""

from __future__ import annotations

import logging

import pytest
import torch
from support.diffusers_host import own_twin
from support.tiny_models import random_lora, tiny_host
from test_own_host import weights_hash
from torch import Tensor, nn

from dfosd_core.hosts.own import OwnHost
from dfosd_core.hosts.precision import wider_format
from dfosd_core.lora.file import DfosdLora
from dfosd_core.pipeline import UpscaleSettings, upscale

HUGE = 3e5
"""float16 ends at 65504. The next norm takes the factor out again, so in other formats it changes next to nothing."""


def host_with(stage: str | None, dtype: torch.dtype) -> tuple[OwnHost, DfosdLora]:
    theirs = tiny_host()
    host, lora = own_twin(theirs), random_lora(theirs)
    layers = {"encode": host.vae.encoder.conv_in, "unet": host.unet.conv_in, "decode": host.vae.decoder.conv_in}
    host.vae.to(dtype)
    host.unet.to(dtype)
    if stage:
        layers[stage].register_forward_hook(enlarged)
    return host, lora


def enlarged(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output * HUGE


def image() -> Tensor:
    return torch.rand(1, 12, 10, 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("stage", ["encode", "unet", "decode"])
def test_each_stage_is_repeated_in_a_wider_format(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = UpscaleSettings(scale=2.0, color_fix="none")
    expected = upscale(image(), *host_with(stage, torch.float32), settings)
    host, lora = host_with(stage, torch.float16)
    before = weights_hash(host.unet, host.vae)
    with caplog.at_level(logging.WARNING, "dfosd"):
        result = upscale(image(), host, lora, settings)
    assert expected.std() > 0.05
    torch.testing.assert_close(result, expected, rtol=0, atol=0.02)
    assert [record.getMessage() for record in caplog.records] == [
        f"The {'UNet' if stage == 'unet' else 'VAE'} overflowed in float16 and goes on in float32."
    ]
    assert weights_hash(host.unet, host.vae) == before


def test_it_is_said_once_a_run_and_nothing_is_kept_after_it(caplog: pytest.LogCaptureFixture) -> None:
    host, lora = host_with("decode", torch.float16)
    with caplog.at_level(logging.WARNING, "dfosd"), host.lora(lora, 1.0):
        z = host.encode(torch.zeros(1, 3, 32, 32))
        first, second = host.decode(z), host.decode(z)
        assert torch.equal(first, second)
        assert len(caplog.records) == 1
    with caplog.at_level(logging.WARNING, "dfosd"), host.lora(lora, 0.5):
        host.decode(z)
    assert len(caplog.records) == 2, "the copy had the other strength's weights"


def test_what_is_not_finite_in_float32_is_handed_on(caplog: pytest.LogCaptureFixture) -> None:
    host, _ = host_with(None, torch.float32)
    assert not host.decode(torch.full((1, 4, 4, 4), torch.nan)).isfinite().any()
    assert not caplog.records


def test_formats_widen_to_float32_and_end_there() -> None:
    assert wider_format(nn.Linear(2, 2).half()) == torch.float32
    assert wider_format(nn.Linear(2, 2).bfloat16()) == torch.float32
    assert wider_format(nn.Linear(2, 2)) is None
