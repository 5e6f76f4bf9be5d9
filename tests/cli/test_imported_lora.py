"""Other methods' LoRAs where a user gives them: the command, the app, the evaluation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.peers import PEERS, write_base, write_checkpoint

from dfosd_core.app.engine import LocalEngine
from dfosd_core.app.model_files import ModelFiles
from dfosd_core.app.runner import Request
from dfosd_core.cli.main import main
from dfosd_core.settings import UpscaleSettings
from train_tools import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as folder and as checkpoint, and each method's LoRA, in one folder."""
    folder = tmp_path_factory.mktemp("models")
    write_base(folder / "sd21-base")
    write_checkpoint(folder / "sd21-base.safetensors")
    for make in PEERS.values():
        make().write(folder)
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", PEERS)
def test_command_upscales_with_it(
    name: str, folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = folder / PEERS[name]().file_name
    for base in ("sd21-base", "sd21-base.safetensors"):
        out = tmp_path / f"{base}.png"
        models = ("--base", folder / base, "--lora", lora, "--device", "cpu", "--dtype", "float32")
        code, _, err = call(capsys, "upscale", photo, "-o", out, *models)
        assert (code, err) == (0, "")
    images = [np.asarray(Image.open(tmp_path / f"{base}.png"), int) for base in ("sd21-base", "sd21-base.safetensors")]
    assert images[0].shape == (28, 36, 3)
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.parametrize(
    ("name", "timestep", "rule", "licence"),
    [
        ("osediff", "999", "eps-x0", "Apache-2.0"),
        ("pisa_sr", "1", "residual", "Apache-2.0 by its README; no licence file"),
        ("hypir", "200", "eps-x0", "HYPIR's own, non-commercial"),
        ("omgsr", "273", "eps-x0", "none stated"),
    ],
)
def test_info_tells_what_it_is(
    name: str, timestep: str, rule: str, licence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = PEERS[name]()
    path = folder / peer.file_name
    code, out, err = call(capsys, "info", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{path}: {peer.source} LoRA"
    lines = {key: value.strip() for key, value in (line.strip().split("  ", 1) for line in out.splitlines()[1:])}
    found = [lines[key] for key in ("timestep", "prediction", "license", "prompt")]
    assert found == [timestep, rule, licence, "the empty text, by the base's text encoder"]
    assert len(lines["source SHA-256"]) == 64


def test_info_and_upscale_refuse_in_one_line(
    folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"vae": {}, "unet": {}}, tmp_path / "osediff.pkl")
    for words in (("info",), ("upscale", photo, "--base", folder / "sd21-base", "--lora")):
        code, out, err = call(capsys, *words, tmp_path / "osediff.pkl")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("dfosd: 'osediff.pkl' is OSEDiff's, already merged into a whole UNet and VAE")


def test_app_offers_and_uses_them(folder: Path, photo: Path, tmp_path: Path) -> None:
    files = ModelFiles(folder=folder)
    names = [make().file_name for make in PEERS.values()]
    assert set(names) <= set(files.loras())
    assert not set(names) & set(files.bases())
    engine = LocalEngine(files, torch.device("cpu"))
    with engine(Request(settings=UpscaleSettings(), base="sd21-base", lora="OMGSR-S")) as upscale_file:
        upscale_file(photo, tmp_path / "out.png", lambda _: None)
    assert Image.open(tmp_path / "out.png").size == (36, 28)


def test_evaluate_takes_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, size in (("LR", 16), ("HR", 64)):
        (tmp_path / part).mkdir()
        Image.fromarray(np.full((size, size, 3), 99, np.uint8)).save(tmp_path / part / "a.png")
    models = ["--base", str(folder / "sd21-base"), "--lora", str(folder / "osediff.pkl")]
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path), *models])
    assert evaluate.main() == 0
    assert "| DFOSD |" in capsys.readouterr().out
