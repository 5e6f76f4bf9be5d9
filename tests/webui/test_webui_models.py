"""Which networks a run takes, in small WebUIs of the tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.decoders import taesd_tensors, vosr_decoder, write_vosr
from support.fakes.install import installed
from support.fakes.networks import TinySd, tiny_sd
from support.fakes.webui import WebUI

from dfosd_core.lora.file import save_lora

pytest.importorskip("gradio")  # every WebUI has one
NAMES = {"a1111": "AUTOMATIC1111", "forge": "Forge", "reforge": "reForge"}
LORA, BASE = "tiny.safetensors", "bases/tiny_base.safetensors"


class Place(NamedTuple):
    """A WebUI with DFOSD in it; models/DFOSD is empty at first."""

    program: WebUI
    pack: str
    sd: TinySd

    def part(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack}.{name}")

    def add_lora(self) -> None:
        save_lora(self.program.folder / "models" / "DFOSD" / LORA, self.sd.lora)

    def add_base(self) -> None:
        tensors = {f"model.diffusion_model.{key}": value for key, value in self.sd.unet.state_dict().items()}
        tensors |= {f"first_stage_model.{key}": value for key, value in self.sd.vae.state_dict().items()}
        save_file(tensors, self.program.folder / "models" / "DFOSD" / BASE)

    def chosen(self, **choice: str) -> tuple[str, str, str]:
        """Names of the host, the LoRA and the base that a run gets."""
        models = self.part("nodes.webui.models")
        with models.chosen_model(models.Choice(**choice)) as model:
            return model.host.name, model.lora_name, model.base_name


@pytest.fixture(params=NAMES)
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Place]:
    program = WebUI(request.param, tmp_path)
    (tmp_path / "models" / "DFOSD" / "bases").mkdir(parents=True)
    with installed(program.modules()) as pack:
        yield Place(program, pack, tiny_sd())


EMBEDDED = ("DFOSD", "embedded small x4", "embedded small base")


def test_automatic_choice(place: Place) -> None:
    """The first LoRA that fits the loaded checkpoint or a base of ours; else the embedded model."""
    assert place.chosen() == EMBEDDED
    place.add_lora()
    assert place.chosen() == EMBEDDED  # no checkpoint
    place.add_base()
    assert place.chosen() == ("DFOSD", LORA, BASE)
    place.program.load(place.sd)
    assert place.chosen() == (NAMES[place.program.kind], LORA, "tiny")
    assert place.chosen(base=BASE) == ("DFOSD", LORA, BASE)
    assert place.chosen(lora="embedded small x4", base=BASE) == EMBEDDED
    assert place.part("nodes.webui.files").lora_names() == ["automatic", "embedded small x4", LORA]
    assert place.part("nodes.webui.files").base_names() == ["automatic", BASE]


def test_what_is_not_there_is_named(place: Place) -> None:
    errors = place.part("dfosd_core.errors")
    with pytest.raises(errors.LoraFormatError, match="There is no LoRA 'gone' in "):
        place.chosen(lora="gone")
    place.add_lora()
    with pytest.raises(errors.BaseModelMismatchError, match="There is no checkpoint 'gone'. Put it in "):
        place.chosen(lora=LORA, base="gone")
    with pytest.raises(errors.BaseModelMismatchError, match="The WebUI has no checkpoint"):
        place.chosen(lora=LORA)


def test_networks_of_our_own_are_kept_or_let_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    models = place.part("nodes.webui.models")
    place.chosen()
    assert list(models._kept) == ["embedded"]
    place.add_lora()
    place.add_base()
    place.chosen(lora=LORA, base=BASE)
    assert list(models._kept) == ["lora", "base"]
    monkeypatch.setattr(place.program.shared.opts, "dfosd_keep_models", False, raising=False)
    place.chosen(lora=LORA, base=BASE)
    assert not models._kept


def test_light_decoders_are_listed_by_content_and_run(place: Place) -> None:
    models, files = place.program.folder / "models", place.part("nodes.webui.files")
    assert files.decoder_names() == ["full"]
    (models / "VAE-approx").mkdir()
    torch.save(taesd_tensors(), models / "VAE-approx" / "taesd_decoder.pth")
    torch.save({"conv1.weight": torch.zeros(8, 4, 7, 7)}, models / "VAE-approx" / "model.pt")
    write_vosr(models / "DFOSD" / "lw.pth", vosr_decoder((32, 32, 32, 32), 1))
    assert files.decoder_names() == ["full", "lw.pth", "taesd_decoder.pth"]
    place.add_lora()
    assert files.lora_names() == ["automatic", "embedded small x4", LORA]
    place.program.load(place.sd)
    image, before = Image.effect_noise((32, 64), 80).convert("RGB"), place.sd.weights()
    script = place.part("nodes.webui.extras").DfosdExtras()
    page: dict[str, SimpleNamespace] = {}
    for name in ("full", "lw.pth", "taesd_decoder.pth"):
        page[name] = SimpleNamespace(image=image, info={}, nametags=[])
        script.process(page[name], enable=True, lora=LORA, decoder=name, scale=2.0, color_fix="none")
        assert page[name].image.size == (64, 128)
        assert page[name].info.get("DFOSD decoder", "full") == name
    assert len({found.image.tobytes() for found in page.values()}) == 3
    error = place.part("dfosd_core.errors").BaseModelMismatchError
    with pytest.raises(error, match=r"There is no decoder 'gone\.pth'"):
        place.chosen(decoder="gone.pth")
    with pytest.raises(error, match="for the decoder, found 16 at 1/4"):
        place.chosen(lora="embedded small x4", decoder="lw.pth")
    if place.program.kind == "a1111":
        assert place.sd.weights() == before


def test_extras_upscale_with_the_loaded_checkpoint_as_with_the_same_from_a_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.part("nodes.webui.models"), "fast_dtype", lambda device: torch.float32)
    place.add_lora()
    place.program.load(place.sd)
    before = place.sd.weights()
    image = Image.effect_noise((32, 64), 80).convert("RGB")  # twice that needs no padding anywhere
    script = place.part("nodes.webui.extras").DfosdExtras()
    off, on, own = (SimpleNamespace(image=image, info={}, nametags=[]) for _ in range(3))
    script.process(off)
    assert (off.image, off.info) == (image, {})
    script.process(on, enable=True, lora=LORA, scale=2.0, color_fix="none")
    assert on.image.size == (64, 128)
    assert (on.info["DFOSD model"], on.info["DFOSD base"], on.nametags) == (LORA, "tiny", ["dfosd"])
    place.add_base()
    script.process(own, enable=True, lora=LORA, base=BASE, scale=2.0, color_fix="none")
    difference = torch.tensor(list(on.image.tobytes())).sub(torch.tensor(list(own.image.tobytes()))).abs()
    assert difference.max() <= 1
    if place.program.kind == "a1111":  # the others have theirs with the user's LoRA, until it is used next
        assert place.sd.weights() == before


def test_extras_are_left_alone_when_the_user_stops(place: Place) -> None:
    image = Image.new("RGB", (16, 16))
    picture = SimpleNamespace(image=image, info={})
    place.program.state.interrupted = True
    place.part("nodes.webui.extras").DfosdExtras().process(picture, enable=True)
    assert picture.image is image
