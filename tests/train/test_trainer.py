"""The loop: it learns, logs, validates, exports, and stops in one line when something is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import config, rows, saved, train, trainer

from dfosd_core.lora.file import load_lora
from train_tools.loop.logbook import Meter, timed
from train_tools.loop.recipe import Recipe
from train_tools.loop.trainer import DivergedError
from train_tools.settings.config_file import dump_config, load_config
from train_tools.train import main


def test_loss_falls_on_one_image(material: Path, tmp_path: Path) -> None:
    settings = config(material, tmp_path / "out", discriminator={"kind": "none"}, optim={"steps": 30, "lr": 1e-2})
    run = trainer(settings)
    batch = next(run.batches())
    history = [float(run.recipe.train_step(step, batch)["loss/mse"]) for step in range(30)]
    assert sum(history[-3:]) < 0.7 * sum(history[:3])


def test_run_leaves_everything_it_promises(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    settings = config(material, out, validation={"pairs": material / "pairs"}, run={"log_every": 3})
    state = train(settings)
    assert [row["step"] for row in rows(out) if "loss/mse" in row] == [3, 6, 8]
    scored = [row for row in rows(out) if "val/PSNR-Y" in row]
    assert [row["step"] for row in scored] == [0, 4, 8]
    assert state["best"] == max(((row["step"], row["val/PSNR-Y"]) for row in scored), key=lambda best: best[1])
    assert load_lora(out / "last.safetensors").metadata.train_config["trained_steps"] == 8
    assert load_lora(out / "best.safetensors").metadata.train_config["trained_steps"] == state["best"][0]
    assert load_config(out / "config.yaml") == settings
    printed = capsys.readouterr().out
    assert dump_config(settings).rstrip() in printed
    for name in ("last.safetensors", "best.safetensors", "checkpoint.pt", "metrics.jsonl", "loss.png"):
        assert (out / name).is_file()
        assert str(out / name) in printed
    assert not list(out.glob(".*.part"))


def test_averaged_generator_is_what_is_exported(material: Path, tmp_path: Path) -> None:
    state = train(config(material, tmp_path / "out", optim={"steps": 3, "ema": 0.9}))
    names = list(state["networks"]["generator"])
    averages = dict(zip(names, state["ema"]["averages"], strict=True))
    prompt = load_lora(tmp_path / "out" / "last.safetensors").prompt_embeds
    assert torch.equal(prompt, averages["prompt_embeds"].half())
    assert not torch.equal(prompt, state["networks"]["generator"]["prompt_embeds"].half())


@pytest.mark.parametrize(
    ("name", "network", "rate"),
    [
        ("loss/mse", "generator", "optim.lr"),
        ("grad/generator", "generator", "optim.lr"),
        ("grad/discriminator", "discriminator", "discriminator.lr"),
    ],
)
def test_divergence_saves_and_stops_in_one_line(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, network: str, rate: str
) -> None:
    out = tmp_path / "out"
    honest = Recipe.train_step

    def broken(self: Recipe, step: int, batches: list[Any]) -> dict[str, torch.Tensor]:
        report = honest(self, step, batches)
        return report | ({name: torch.tensor(float("nan"))} if step == 3 else {})

    monkeypatch.setattr(Recipe, "train_step", broken)
    run = trainer(config(material, out, run={"checkpoint_every": 2}))
    with pytest.raises(DivergedError) as caught:
        run.fit()
    assert str(caught.value) == (
        f"Step 4: {name} of the {network} is nan. The last good checkpoint is '{out / 'checkpoint.pt'}' of step 3; if "
        f"that one is no good, copy 'checkpoint_00000002.pt' over it. Lower {rate} and start again."
    )
    assert saved(out)["step"] == 3
    assert [row["step"] for row in rows(out)] == [1, 2, 3]


def test_nan_in_the_weights_is_found(material: Path, tmp_path: Path) -> None:
    run = trainer(config(material, tmp_path / "out"))
    run.networks.generator.prompt_embeds.data.fill_(float("nan"))
    with pytest.raises(
        DivergedError, match=r"Step 1: loss/generator of the generator is nan\. There is no checkpoint yet\."
    ):
        run.fit()
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_command_trains_and_reports_errors_in_one_line(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, tmp_path / "out", optim={"steps": 1})))
    assert main(["--config", str(file), "--set", f"run.out={tmp_path / 'other'}", "optim.lr=0.5"]) == 0
    assert saved(tmp_path / "other")["config"]["optim"]["lr"] == 0.5
    capsys.readouterr()
    assert main(["--config", str(file), "--set", f"data.photos={tmp_path / 'none'}"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("train: ")
    assert str(tmp_path / "none") in error
    assert "\n" not in error


def test_float16_without_a_gpu_is_refused(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config(material, tmp_path / "out", run={"precision": "fp16"})))
    assert main(["--config", str(file)]) == 1
    assert "run.precision: fp16 needs a CUDA device, found none." in capsys.readouterr().err


def test_meter_averages_over_the_steps_that_had_a_value() -> None:
    meter = Meter()
    meter.add({"a": 1.0})
    meter.add({"a": 2.0, "b": 5.0})
    assert meter.take_means() == {"a": 1.5, "b": 5.0}
    assert meter.take_means() == {}


def test_timed_measures_the_wait() -> None:
    def slow() -> Iterator[str]:
        for item in "ab":
            time.sleep(0.02)
            yield item

    waits, items = zip(*timed(slow()), strict=True)
    assert items == ("a", "b")
    assert all(0.015 < wait < 1 for wait in waits)
