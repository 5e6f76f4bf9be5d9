"""Which device a run takes, and that it never falls back to the CPU without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import config, trainer
from torch import nn

from dfosd_core.errors import ConfigError
from train_tools.loop import device
from train_tools.loop.device import choose_device, describe_device
from train_tools.settings.config import RunConfig
from train_tools.train import main


def machine(
    patch: pytest.MonkeyPatch, *, build: str | None, finds: bool, card: bool, apple: bool = False, bf16: bool = True
) -> None:
    """build: torch's CUDA version; finds: whether torch sees a GPU; card: whether the system has NVIDIA's driver."""
    patch.setattr(torch.version, "cuda", build)
    patch.setattr(torch.version, "hip", None)
    patch.setattr(torch.cuda, "is_available", lambda: finds)
    patch.setattr(torch.cuda, "get_device_name", lambda *_: "Card 4000")
    patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    patch.setattr(torch.backends.mps, "is_available", lambda: apple)
    patch.setattr(device, "NVIDIA", Path("/" if card else "/no/such/card"))


def test_card_is_taken_where_torch_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build="12.8", finds=True, card=True)
    assert choose_device(RunConfig()) == "cuda"
    assert choose_device(RunConfig(device="cpu")) == "cpu"


def test_plain_cpu_build_without_a_card_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build=None, finds=False, card=False)
    assert choose_device(RunConfig()) == "cpu"


@pytest.mark.parametrize(
    ("build", "card", "reason"),
    [("12.8", False, "is a CUDA build and finds no GPU"), (None, True, "there is an NVIDIA card, but torch")],
)
def test_no_silent_fall_to_the_cpu(monkeypatch: pytest.MonkeyPatch, build: str | None, card: bool, reason: str) -> None:
    machine(monkeypatch, build=build, finds=False, card=card)
    with pytest.raises(ConfigError, match=reason) as error:
        choose_device(RunConfig())
    assert "run.device=cpu" in str(error.value)
    assert "\n" not in str(error.value)
    assert choose_device(RunConfig(device="cpu")) == "cpu"


def test_cuda_that_is_asked_for_and_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build=None, finds=False, card=False)
    with pytest.raises(ConfigError, match=r"run\.device: cuda, but torch .* is a build for CPUs"):
        choose_device(RunConfig(device="cuda"))
    with pytest.raises(ConfigError, match=r"run\.device: mps"):
        choose_device(RunConfig(device="mps"))


def test_card_that_does_not_compute_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build="12.8", finds=True, card=True, bf16=False)
    with pytest.raises(ConfigError, match=r"run\.precision: bf16, which cuda \(Card 4000\) .* Set run\.precision=fp16"):
        choose_device(RunConfig())
    assert choose_device(RunConfig(precision="fp16")) == "cuda"


def test_line_says_device_formats_and_memory() -> None:
    line = describe_device(torch.device("cpu"), RunConfig(), torch.float32)
    assert line.startswith("Device: cpu (")
    assert "bfloat16 (autocast), the base held in float32" in line
    assert "GiB" in line or "unknown" in line


def test_run_says_its_device_first(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("optim: {steps: 1}\n")
    settings = [f"model.base={material / 'base'}", f"data.photos={material / 'photos'}", f"run.out={tmp_path / 'out'}"]
    settings += ["model.rank=4", "data.crop=16", "data.batch_size=1", "data.micro_batch=1", "data.workers=0"]
    settings += ["loss.perceptual=none", "discriminator.kind=none", "run.precision=no", "run.device=cpu"]
    assert main(["--config", str(tmp_path / "run.yaml"), "--set", *settings]) == 0
    assert "Device: cpu (" in capsys.readouterr().out


def test_compile_reaches_what_trains_and_the_decoder(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def note(network: nn.Module, *_: Any, **__: Any) -> None:
        compiled.append(type(network).__name__)

    monkeypatch.setattr(nn.Module, "compile", note)
    trainer(config(material, tmp_path / "out"))
    assert compiled == []
    trainer(config(material, tmp_path / "out", run={"compile": True}))
    assert compiled == ["Decoder", "UNet2DConditionModel", "Nad"]
