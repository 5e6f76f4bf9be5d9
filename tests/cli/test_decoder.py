"""A light decoder and PiSA-SR's two strengths where a user gives them: the command, and the app."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.decoders import taesd_tensors
from support.peers import PEERS, write_base

from dfosd_core.app.engine import LocalEngine
from dfosd_core.app.model_files import ModelFiles
from dfosd_core.app.runner import Request
from dfosd_core.cli.main import main
from dfosd_core.settings import UpscaleSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_base(folder / "sd21-base")
    for name in ("pisa_sr", "osediff"):
        PEERS[name]().write(folder)
    torch.save(taesd_tensors(), folder / "taesd_decoder.pth")
    return folder


def upscaled(folder: Path, photo: Path, out: Path, *words: str | Path, lora: str = "pisa_sr.pkl") -> np.ndarray:
    models = ("--base", folder / "sd21-base", "--lora", folder / lora, "--device", "cpu", "--dtype", "float32")
    assert main([str(word) for word in ("upscale", photo, "-o", out, "--overwrite", *models, *words)]) == 0
    return np.asarray(Image.open(out), int)


def test_command_takes_a_decoder_and_both_strengths(folder: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    plain = upscaled(folder, photo, out)
    changed = [
        upscaled(folder, photo, out, "--decoder", folder / "taesd_decoder.pth"),
        upscaled(folder, photo, out, "--strength", "0.5"),
        upscaled(folder, photo, out, "--strength", "0.5", "--pixel-strength", "1.5"),
    ]
    for i, image in enumerate(changed):
        assert image.shape == plain.shape == (28, 36, 3)
        assert all(np.abs(image - other).max() > 3 for other in (plain, *changed[:i]))


def test_what_does_not_fit_is_one_line(
    folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        ("--decoder", "gone.pth"): (1, "There is no decoder 'gone.pth'"),
        ("--decoder", str(folder / "pisa_sr.pkl")): (1, "'pisa_sr.pkl' is no light decoder that DFOSD knows"),
        ("--decoder", str(folder / "taesd_decoder.pth")): (1, "for the decoder, found 16 at 1/4"),
        ("--base", str(folder / "sd21-base"), "--lora", str(folder / "taesd_decoder.pth")): (
            1,
            "'taesd_decoder.pth' is TAESD's light decoder: it takes the place of the VAE's decoder and is no LoRA. "
            "Give it as the decoder (--decoder).",
        ),
    }
    for words, (code, message) in cases.items():
        assert main(["upscale", str(photo), "-o", str(tmp_path / "x.png"), "--device", "cpu", *words]) == code
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert not (tmp_path / "x.png").exists()


def test_app_runs_with_the_decoder(folder: Path, photo: Path, tmp_path: Path) -> None:
    expected = upscaled(folder, photo, tmp_path / "a.png", "--decoder", folder / "taesd_decoder.pth")
    files = ModelFiles(folder=folder)
    assert files.decoders() == ["full", "taesd_decoder.pth"]
    assert "taesd_decoder.pth" not in files.loras()
    engine = LocalEngine(files, torch.device("cpu"), "float32")
    request = Request(settings=UpscaleSettings(), base="sd21-base", lora="pisa_sr.pkl", decoder="taesd_decoder.pth")
    for name in ("b.png", "c.png"):
        with engine(request) as upscale_file:
            upscale_file(photo, tmp_path / name, lambda _: None)
        assert np.array_equal(np.asarray(Image.open(tmp_path / name), int), expected)
