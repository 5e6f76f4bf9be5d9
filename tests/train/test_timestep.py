"""What `train_tools.timestep` says of a base at each timestep is what the method's equation does with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.training_runs import config

from dfosd_core import images
from dfosd_core.hosts.own import OwnHost, load_base
from dfosd_core.schedule import alpha_bar_at
from train_tools import timestep
from train_tools.loop.timesteps import best, measure
from train_tools.scoring.pair_files import Pair, read_pair
from train_tools.scoring.validation import bicubic
from train_tools.settings.config_file import dump_config


class Oracle(OwnHost):
    """A base that has learned to see, at one timestep only, the noise that lies between two latents."""

    knows: int
    target: torch.Tensor

    def predict_eps(self, z: torch.Tensor, t: int, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return self.target if t == self.knows else torch.zeros_like(z)


def test_base_that_knows_one_timestep_is_best_there(material: Path) -> None:
    pair = read_pair(material / "pairs", "0.png")
    plain = load_base(material / "base")
    host = Oracle(plain.unet, plain.vae, plain.layout)
    with torch.inference_mode():
        z_hr, z_lr = (plain.encode(images.to_signed(x)).float() for x in (pair.x_hr, bicubic(pair)))
    alpha_bar = alpha_bar_at(300)
    host.knows = 300
    host.target = (z_lr - alpha_bar**0.5 * z_hr) / (1 - alpha_bar) ** 0.5
    found = measure(host, material / "base", [pair], [100, 300, 500])
    assert found[300]["error"] == pytest.approx(0, abs=1e-6)
    assert found[300]["target"] == pytest.approx(host.target.square().mean().sqrt().item(), rel=1e-4)
    assert best(found, "error", is_higher_better=False) == 300
    gain = alpha_bar_at(100) ** -0.5  # without noise the answer is z_lr, divided
    expected = (z_lr * gain - z_hr).square().mean() / (z_lr - z_hr).square().mean()
    assert found[100]["error"] == pytest.approx(float(expected), rel=1e-4)


def test_error_is_one_where_nothing_is_done(material: Path) -> None:
    pair = read_pair(material / "pairs", "1.png")
    plain = load_base(material / "base")
    host = Oracle(plain.unet, plain.vae, plain.layout)
    host.knows = -1
    found = measure(host, material / "base", [Pair(name="a", x_lq=pair.x_lq, scale=4, x_hr=pair.x_hr)], [0])
    assert found[0]["error"] == pytest.approx(1, abs=0.02)  # t = 0: z_lr / 0.9996


def test_command_trains_at_each_timestep_and_draws(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, tmp_path / "unused", discriminator={"kind": "none"})))
    arguments = ["--config", file, "--out", tmp_path / "out", "--pairs", material / "pairs", "--grid", 50, 400]
    monkeypatch.setattr(sys, "argv", ["timestep", *map(str, arguments), "--steps", "2"])
    assert timestep.main() == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "timestep.json").read_text())
    assert list(found) == ["50", "400"]
    assert list(found["50"]) == ["error", "target", "PSNR-Y", "trained PSNR-Y"]
    chosen = max(found, key=lambda t: found[t]["trained PSNR-Y"])
    assert f"Best PSNR-Y after 2 steps at t = {chosen}: --set model.timestep={chosen}" in printed
    assert Image.open(tmp_path / "out" / "timestep.png").width > 1500
    assert not (tmp_path / "unused").exists()


def test_command_without_pairs_is_one_line(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, tmp_path / "unused")))
    monkeypatch.setattr(sys, "argv", ["timestep", "--config", str(file), "--out", str(tmp_path / "out")])
    assert timestep.main() == 1
    assert capsys.readouterr().err.startswith("timestep: Expected --pairs or validation.pairs, found neither.")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--grid", "1000"])
    with pytest.raises(SystemExit):
        timestep.main()
    assert "expected timesteps from 0 to 999" in capsys.readouterr().err
