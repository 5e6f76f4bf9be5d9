"""Photographs set aside for validation are never trained on; folders have weights; a run tells how far it is."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.training_runs import config, rows, saved, train

from dfosd_core.errors import ConfigError
from train_tools.data.photos import PhotoFolder
from train_tools.data.sources import WeightedSources, open_source
from train_tools.loop import held_out
from train_tools.loop.held_out import names_set_aside
from train_tools.loop.progress import Progress, duration
from train_tools.loop.wandb_board import WandbBoard
from train_tools.settings.config import DataConfig, TrainConfig


def colour_of(index: int) -> int:
    """Each photograph is of one grey level of its own, by which a crop betrays it."""
    return 20 + 10 * index


@pytest.fixture(autouse=True)
def small_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "SMALLEST_PX", 32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty photographs in two folders."""
    for index in range(20):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 280), (colour_of(index),) * 3).save(path)
    return tmp_path / "photos"


def settings_of(material: Path, photos: Path, out: Path, **changes: dict[str, Any]) -> TrainConfig:
    given: dict[str, dict[str, Any]] = {"data": {"photos": photos}, "discriminator": {"kind": "none"}}
    return config(material, out, **(given | changes))


def seen_by(settings: TrainConfig, names: list[str]) -> set[int]:
    """Grey levels that crops have after the named photographs are left out."""
    source, rng = open_source(settings.data.folders(), 16), np.random.default_rng(0)
    source.leave_out(names)
    return {int(source.cut(rng).mean()) for _ in range(400)}


def test_run_sets_photographs_aside_and_never_trains_on_them(
    material: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = settings_of(material, photos, out, optim={"steps": 4})
    train(settings)
    names = names_set_aside(out)
    assert len(names) == 2  # a tenth
    assert (
        f"Set aside for validation: 2 of 20 photographs, as pairs in '{out / 'held_out'}'." in capsys.readouterr().out
    )
    assert [row["step"] for row in rows(out) if "val/PSNR-Y" in row] == [0, 4]
    assert (out / "best.safetensors").exists()
    held = {colour_of(int(Path(name).stem)) for name in names}
    pairs = {int(np.asarray(Image.open(path)).mean()) for path in (out / "held_out" / "HR").iterdir()}
    assert pairs == held
    assert seen_by(settings, []) >= held
    assert seen_by(settings, names) == {colour_of(index) for index in range(20)} - held

    Image.new("RGB", (300, 280), "white").save(photos / "a" / "new.png")
    moved = tmp_path / "elsewhere"
    shutil.move(photos, moved)
    settings.data.photos, settings.optim.steps = moved, 6
    assert saved(out)["held_out"] == sorted(names)
    train(settings)
    assert names_set_aside(out) == names, "a photograph more does not change the choice"
    shutil.rmtree(out / "held_out")
    settings.optim.steps = 7
    assert train(settings)["held_out"] == sorted(names), "the checkpoint remembers, too"
    assert "No validation: there is no" in capsys.readouterr().out


def test_choice_follows_the_seed(material: Path, photos: Path, tmp_path: Path) -> None:
    chosen = []
    for out, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(settings_of(material, photos, tmp_path / out, optim={"steps": 1}, run={"seed": seed}))
        chosen.append(names_set_aside(tmp_path / out))
    assert chosen[0] == chosen[1] != chosen[2]


def test_few_photographs_are_all_trained_on(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(material, tmp_path / "out", optim={"steps": 1}))
    assert "No validation: from 10 photographs on some are set aside for it, found 2." in capsys.readouterr().out
    train(config(material, tmp_path / "none", optim={"steps": 1}, validation={"count": 0}))
    assert "alidation:" not in capsys.readouterr().out.replace("validation:\n", "")
    for out in ("out", "none"):
        assert not (tmp_path / out / "held_out").exists()


def test_unreadable_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out" / "photographs.json").write_text("[")
    with pytest.raises(ConfigError, match=r"photographs\.json' is damaged"):
        names_set_aside(tmp_path)


def test_folders_come_by_their_weights(tmp_path: Path) -> None:
    for name, level in (("faces", 50), ("nature", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (300, 280), (level,) * 3).save(tmp_path / name / "one.png")
    data = DataConfig(photos={str(tmp_path / "faces"): 1, str(tmp_path / "nature"): 3}, crop=16)
    source, rng = open_source(data.folders(), 16), np.random.default_rng(0)
    assert isinstance(source, WeightedSources)
    share = np.mean([source.cut(rng).mean() > 100 for _ in range(2000)])
    assert share == pytest.approx(0.75, abs=0.04)
    assert sorted(source.photographs()) == ["one.png"], "a name that both have counts in both"
    with pytest.raises(ConfigError):
        source.leave_out(["one.png"])


def test_one_folder_draws_as_before(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8)).save(tmp_path / "one/a.png")
    source = open_source(DataConfig(photos=tmp_path / "one", crop=16).folders(), 16)
    assert isinstance(source, PhotoFolder)


@pytest.mark.parametrize("photos", [{}, {"a": 0.0}, {"a": float("inf")}])
def test_weights_without_sense_are_refused(photos: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"data\.photos: expected a folder, or folders with weights above 0, found"):
        DataConfig(photos=photos)


def test_progress_into_a_file_is_lines_with_the_time_left() -> None:
    now, stream = [0.0], io.StringIO()
    progress = Progress(100, 20, shown=True, stream=stream, clock=lambda: now[0])
    for step in range(20, 100):
        now[0] += 10 if step == 20 else 1  # the first one waits for the workers
        progress.show(f"mse {step}")
        progress.step()
    progress.say("Step 100: PSNR-Y 30")
    text = stream.getvalue()
    assert "\r" not in text
    assert text.splitlines() == [
        "Step 21 of 100 (21 %): mse 20",
        "Step 51 of 100 (51 %), 1.00 s a step, 49 s left: mse 50",
        "Step 81 of 100 (81 %), 1.00 s a step, 19 s left: mse 80",
        "Step 100 of 100 (100 %), 1.00 s a step, 0 s left: mse 99",
        "Step 100: PSNR-Y 30",
    ]
    hidden = io.StringIO()
    other = Progress(2, 0, shown=False, stream=hidden)
    other.step()
    other.say("nobody hears this")
    assert hidden.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.4, "3 s"), (120, "2 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min"), (187200, "2 d 4 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_wandb_gets_the_same_values_in_the_same_run(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    begun: list[dict[str, Any]] = []

    def init(**given: Any) -> Any:
        begun.append(given)
        return SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda pixels: pixels.shape))
    settings = config(material, tmp_path / "out", optim={"steps": 2}, run={"wandb": "sr"})
    train(settings)
    settings.optim.steps = 3
    train(settings)
    assert [step for step, values in logged if "loss/mse" in values] == [1, 2, 3]
    assert begun[0]["project"] == "sr"
    assert begun[0]["config"]["optim"]["steps"] == 2
    assert begun[0]["id"] == begun[1]["id"]
    json.dumps(begun[0]["config"])


def test_wandb_that_is_missing_or_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured.\nmore")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(ConfigError, match=r"^run\.wandb: .* \(api_key not configured\)\. Log in, or set WANDB_MODE"):
        WandbBoard("sr", tmp_path, {}, resumes=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install wandb"):
        WandbBoard("sr", tmp_path, {}, resumes=False)


def test_images_reach_wandb_in_8_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: shown.append((step, values)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run, Image=lambda pixels: pixels))
    WandbBoard("sr", tmp_path, {}, resumes=False).image(3, "validation", torch.ones(3, 4, 5))
    step, values = shown[0]
    assert step == 3
    assert values["validation"].shape == (4, 5, 3)
    assert values["validation"].dtype == np.uint8
    assert values["validation"].min() == 255
