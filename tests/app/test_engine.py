"""`dfosd app`'s own engine: the same pixels as `dfosd upscale`, and which bases and LoRAs it offers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.peers import PEERS
from support.tiny_models import random_lora, tiny_host, write_folder

from dfosd_core.app.engine import LocalEngine
from dfosd_core.app.model_files import EMBEDDED_BASE, EMBEDDED_LORA, ModelFiles
from dfosd_core.app.runner import Request
from dfosd_core.cli.main import main
from dfosd_core.errors import ConfigError, LoraFormatError
from dfosd_core.lora.file import save_lora
from dfosd_core.settings import UpscaleSettings

Photo = Callable[..., Path]


@pytest.fixture
def models(tmp_path: Path) -> ModelFiles:
    """A folder with a base, its LoRA, a broken LoRA, and what is neither."""
    host = tiny_host()
    folder = tmp_path / "models"
    folder.mkdir()
    write_folder(folder / "tiny", host, {"prediction_type": "epsilon"})
    save_lora(folder / "tiny_lora.safetensors", random_lora(host))
    (folder / "broken.safetensors").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("hello")
    return ModelFiles(folder=folder)


def upscale(models: ModelFiles, source: Path, target: Path, base: str, lora: str) -> None:
    engine = LocalEngine(models, torch.device("cpu"))
    with engine(Request(settings=UpscaleSettings(), base=base, lora=lora)) as upscale_file:
        upscale_file(source, target, lambda _: None)


def test_folder_is_sorted_into_bases_and_loras(models: ModelFiles) -> None:
    assert models.bases() == [EMBEDDED_BASE, "tiny"]
    assert models.loras() == [EMBEDDED_LORA, "broken.safetensors", "tiny_lora.safetensors"]


def test_files_of_the_command_line_come_first(tmp_path: Path) -> None:
    models = ModelFiles(given_base=tmp_path / "mine", given_lora=tmp_path / "my.safetensors")
    assert models.bases() == ["mine", EMBEDDED_BASE]
    assert models.lora("my.safetensors") == tmp_path / "my.safetensors"


def test_origin_of_an_imported_lora_is_told(models: ModelFiles) -> None:
    assert models.folder
    peer = PEERS["hypir"]()
    digest = hashlib.sha256(peer.write(models.folder).read_bytes()).hexdigest()
    line = models.about_lora(peer.file_name)
    assert line == f"HYPIR. Licence: HYPIR's own, non-commercial. SHA-256: {digest[:12]}..."
    assert models.about_lora("tiny_lora.safetensors") == models.about_lora(EMBEDDED_LORA) == ""
    with pytest.raises(LoraFormatError, match=r"'broken\.safetensors' is damaged"):
        models.about_lora("broken.safetensors")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "notes.txt", ""])
def test_only_what_is_offered_is_opened(models: ModelFiles, name: str) -> None:
    with pytest.raises(ConfigError, match="any more. Look for new files and choose another one.$"):
        models.base(name)


def test_result_equals_that_of_the_command(models: ModelFiles, photo: Photo, tmp_path: Path) -> None:
    source = photo()
    upscale(models, source, tmp_path / "app.png", "tiny", "tiny_lora.safetensors")
    assert models.folder is not None
    flags = ["--base", str(models.folder / "tiny"), "--lora", str(models.folder / "tiny_lora.safetensors")]
    assert (
        main(["upscale", str(source), "-o", str(tmp_path / "command.png"), "--quiet", "--device", "cpu", *flags]) == 0
    )
    assert (tmp_path / "app.png").read_bytes() == (tmp_path / "command.png").read_bytes()


def test_embedded_models_are_the_default(photo: Photo, tmp_path: Path) -> None:
    upscale(ModelFiles(), photo(), tmp_path / "out.png", EMBEDDED_BASE, EMBEDDED_LORA)
    assert (tmp_path / "out.png").exists()


def test_broken_lora_is_one_line(models: ModelFiles, photo: Photo, tmp_path: Path) -> None:
    with pytest.raises(LoraFormatError, match=r"broken\.safetensors") as caught:
        upscale(models, photo(), tmp_path / "out.png", EMBEDDED_BASE, "broken.safetensors")
    assert "\n" not in str(caught.value)


def test_base_without_its_lora_is_refused(models: ModelFiles, photo: Photo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trained on the base 'tiny', found none: .* choose that base's LoRA"):
        upscale(models, photo(), tmp_path / "out.png", "tiny", EMBEDDED_LORA)


def test_networks_are_kept_for_the_next_run_and_read_again_when_a_file_changes(models: ModelFiles) -> None:
    engine = LocalEngine(models, torch.device("cpu"))
    request = Request(settings=UpscaleSettings(), base="tiny", lora="tiny_lora.safetensors")
    hosts = [engine._models(request)[0] for _ in range(2)]
    assert hosts[0] is hosts[1]
    lora = models.lora("tiny_lora.safetensors")
    assert lora is not None
    save_lora(lora, random_lora(tiny_host()))
    assert engine._models(request)[0] is not hosts[0]
