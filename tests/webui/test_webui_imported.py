"""Other methods' LoRAs in small WebUIs of the tests: the list, the prompt, the image, what is said of their origin."""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.decoders import taesd_tensors
from support.fakes.install import installed
from support.fakes.networks import TinySd, sd_of, tiny_sd
from support.fakes.webui import WebUI, text_encoder
from support.peers import PEERS, empty_prompt, encoder_tensors, openclip_tensors, sd_host, write_checkpoint
from torch import Tensor

from dfosd_core.lora.file import save_lora
from dfosd_core.networks.text_encoder import empty_prompt as prompt_of
from dfosd_core.training.base import config_of, own_networks

pytest.importorskip("gradio")  # every WebUI has one
NAMES = {"a1111": "AUTOMATIC1111", "forge": "Forge", "reforge": "reForge"}


class Place(NamedTuple):
    """A WebUI with DFOSD in it; models/DFOSD is empty at first."""

    program: WebUI
    pack: str
    sd: TinySd

    @property
    def folder(self) -> Path:
        return self.program.folder / "models" / "DFOSD"

    def part(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack}.{name}")

    def load(self) -> Any:
        """Make the peers' base the loaded checkpoint, with its text encoder, and a LoRA of the user's on both."""
        theirs = encoder_tensors() if self.program.kind != "a1111" else openclip_tensors()
        return self.program.load(self.sd, text_encoder(self.program.kind, theirs))

    def run(self, **choice: str) -> tuple[Tensor, Any]:
        """The image of a run, and what it ran with."""
        models, pipeline = self.part("nodes.webui.models"), self.part("dfosd_core.pipeline")
        settings = self.part("dfosd_core.settings").UpscaleSettings(scale=1.0, color_fix="none")
        with models.chosen_model(models.Choice(**choice)) as model:
            return pipeline.upscale(picture(), model.host, model.lora, settings), model


def picture() -> Tensor:
    """(1, H, W, 3), a size that no host pads."""
    return torch.rand(1, 64, 128, 3, generator=torch.Generator().manual_seed(3))


def peer_sd() -> TinySd:
    """The base of the peers' LoRAs, as a WebUI holds it."""
    host = sd_host()
    unet, vae = own_networks(host.unet, host.vae)
    return sd_of(unet, vae, config_of(host.unet), config_of(host.vae), host.layout, tiny_sd().lora)


@pytest.fixture(params=NAMES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    program = WebUI(request.param, tmp_path)
    (tmp_path / "models" / "DFOSD").mkdir(parents=True)
    with installed(program.modules()) as pack:
        yield Place(program, pack, peer_sd())


def text_weights(model: Any) -> dict[str, Tensor]:
    objects = getattr(model, "forge_objects", None)
    encoder = objects.clip.cond_stage_model if objects else model.cond_stage_model
    return {key: value.clone() for key, value in encoder.state_dict().items()}


@pytest.mark.parametrize("method", PEERS)
def test_image_on_the_loaded_checkpoint_is_the_methods_own(method: str, place: Place) -> None:
    """By peft on diffusers, with the prompt by transformers."""
    peer, model = PEERS[method](), place.load()
    name = peer.write(place.folder).name
    before = place.sd.weights()
    image, used = place.run(lora=name)
    assert (used.host.name, used.lora_name, used.base_name) == (NAMES[place.program.kind], name, "tiny")
    torch.testing.assert_close(used.lora.prompt_embeds, empty_prompt(), rtol=0, atol=1e-5)
    signed = peer.image(picture().permute(0, 3, 1, 2) * 2 - 1)
    expected = (signed.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(image, expected, rtol=0, atol=2e-3)
    if place.program.kind != "a1111":  # they have the user's LoRA on the weights when it is used next
        model.use()
    assert place.sd.weights() == before


def test_prompt_is_without_the_users_loras(place: Place) -> None:
    """They are on the text encoder's weights after a generation, and again at the next."""
    name = PEERS["hypir"]().write(place.folder).name
    model = place.load()
    if place.program.kind == "a1111":
        place.program.networks.append("lora")
        for layer in model.cond_stage_model.modules():
            place.program.apply_networks(layer)
    before = text_weights(model)
    assert torch.isfinite(before[min(before)]).all()
    _, used = place.run(lora=name)
    torch.testing.assert_close(used.lora.prompt_embeds, empty_prompt(), rtol=0, atol=1e-5)
    if place.program.kind == "a1111":
        assert place.program.networks == ["lora"]
        for layer in model.cond_stage_model.modules():
            place.program.apply_networks(layer)
    else:
        model.use()
    after = text_weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_prompt_is_computed_once_for_each_checkpoint(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = importlib.import_module(f"{place.pack}.dfosd_core.hosts.webui.shared")
    calls: list[str] = []
    original = shared.empty_prompt_of
    monkeypatch.setattr(shared, "empty_prompt_of", lambda *given: calls.append("") or original(*given))
    name = PEERS["osediff"]().write(place.folder).name
    model = place.load()
    for _ in range(2):
        place.run(lora=name)
    assert len(calls) == 1
    model.sd_checkpoint_info = SimpleNamespace(name_for_extra="another")  # A1111 keeps the networks and fills them anew
    place.run(lora=name)
    assert len(calls) == 2
    place.load()
    place.run(lora=name)
    assert len(calls) == 3


def test_one_that_does_not_fit_is_read_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    models = place.part("nodes.webui.models")
    opened: list[str] = []
    original = models.open_lora
    monkeypatch.setattr(models, "open_lora", lambda path: opened.append(path.name) or original(path))
    for method in ("osediff", "pisa_sr"):
        PEERS[method]().write(place.folder)
    place.program.load(tiny_sd())
    for _ in range(3):
        assert place.run()[1].lora_name == "embedded small x4"
    assert sorted(opened) == ["osediff.pkl", "pisa_sr.pkl"]


@pytest.mark.parametrize("method", ["osediff", "hypir"])
def test_pickles_are_read_where_the_program_has_exchanged_torch_load(
    method: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """modules/safe.py of A1111 and reForge: what its own check refuses is None."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: None)
    name = PEERS[method]().write(place.folder).name
    assert place.part("nodes.webui.models").about_lora(name)


def test_base_of_our_own_gives_the_prompt_from_its_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.part("nodes.webui.models"), "fast_dtype", lambda device: torch.float32)
    peer = PEERS["omgsr"]()
    name, base = peer.write(place.folder).name, write_checkpoint(place.folder / "sd.safetensors").name
    image, used = place.run(lora=name)  # there is no checkpoint
    assert (used.host.name, used.base_name) == ("DFOSD", base)
    torch.testing.assert_close(used.lora.prompt_embeds, empty_prompt(), rtol=0, atol=1e-5)
    signed = peer.image(picture().permute(0, 3, 1, 2) * 2 - 1)
    expected = (signed.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)


def test_checkpoint_without_its_text_encoder_is_refused(place: Place) -> None:
    name = PEERS["hypir"]().write(place.folder).name
    place.program.load(place.sd)
    errors = place.part("dfosd_core.errors")
    with pytest.raises(errors.BaseModelMismatchError, match="'the loaded checkpoint' holds no text encoder"):
        place.run(lora=name)


def test_reforge_holds_a_last_layer_that_sd2_does_not_use() -> None:
    tensors = encoder_tensors()
    deep = dict(tensors)
    start = "text_model.encoder.layers."
    for number in range(24):
        for key, value in tensors.items():
            if key.startswith(f"{start}{number % 2}."):
                deep[f"{start}{number}.{key.removeprefix(f'{start}{number % 2}.')}"] = value * (1 + number / 100)
    used = {key: value for key, value in deep.items() if not key.startswith(f"{start}23.")}
    encoder = text_encoder("reforge", deep)
    with installed(WebUI("reforge", Path()).modules()) as pack:
        found = importlib.import_module(f"{pack}.dfosd_core.hosts.webui.text_encoder").empty_prompt_of(encoder, "x")
    assert torch.equal(found, prompt_of(used, "x"))
    assert not torch.allclose(found, prompt_of(deep, "x"), atol=1e-2)


def test_list_has_every_layout_and_nothing_else(place: Place) -> None:
    files = place.part("nodes.webui.files")
    for method in PEERS.values():
        method().write(place.folder)
    save_lora(place.folder / "own.safetensors", place.sd.lora)
    deeper = place.folder / "more" / "deeper"
    deeper.mkdir(parents=True)
    shutil.copy(place.folder / "osediff.pkl", deeper / "osediff_face.pkl")
    write_checkpoint(place.folder / "base.safetensors")
    save_file({"decoder.conv_in.weight": torch.zeros(4, 4, 3, 3)}, place.folder / "another_decoder.safetensors")
    (place.folder / "damaged.safetensors").write_bytes(b"half a file")
    (place.folder / "readme.txt").write_text("no LoRA")
    diffusers = place.folder / "sd21"
    for part in ("unet", "vae", "text_encoder"):
        (diffusers / part).mkdir(parents=True)
        save_file({"conv_in.weight": torch.zeros(4, 4)}, diffusers / part / "model.safetensors")
    names = ["HYPIR_sd2.pth", "OMGSR-S", "damaged.safetensors", "more/deeper/osediff_face.pkl"]
    assert files.lora_names()[2:] == [*names, "osediff.pkl", "own.safetensors", "pisa_sr.pkl"]
    assert files.base_names()[1:] == ["base.safetensors"]


def test_light_decoder_is_a_choice_of_its_own_in_every_face(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.part("nodes.webui.models"), "fast_dtype", lambda device: torch.float32)
    files, tensors = place.part("nodes.webui.files"), taesd_tensors()
    torch.save(tensors, place.folder / "taesd_decoder.pth")
    save_file(tensors, place.folder / "taesd_decoder.safetensors")
    name = PEERS["omgsr"]().write(place.folder).name
    assert files.decoder_names() == ["full", "taesd_decoder.pth", "taesd_decoder.safetensors"]
    assert files.lora_names()[2:] == [name]
    place.load()
    light, used = place.run(lora=name, decoder="taesd_decoder.pth")
    assert (used.host.name, used.decoder_name) == (NAMES[place.program.kind], "taesd_decoder.pth")
    assert not torch.allclose(light, place.run(lora=name)[0], atol=0.05)
    assert torch.equal(light, place.run(lora=name, decoder="taesd_decoder.safetensors")[0])
    script = place.part("nodes.webui.extras").DfosdExtras()
    image = SimpleNamespace(image=Image.new("RGB", (16, 16)), info={}, nametags=[])
    script.process(image, enable=True, lora=name, scale=1.0, decoder="taesd_decoder.pth")
    assert image.info["DFOSD decoder"] == "taesd_decoder.pth"
    errors = place.part("dfosd_core.errors")
    with pytest.raises(errors.BaseModelMismatchError, match="There is no decoder 'gone.pth' in "):
        place.run(lora=name, decoder="gone.pth")
    with pytest.raises(errors.BaseModelMismatchError, match="for the decoder, found 16 at 1/4"):
        place.run(lora="embedded small x4", decoder="taesd_decoder.pth")


def test_pisa_srs_two_strengths(place: Place) -> None:
    """Its exact rule on a WebUI's checkpoint, by hooks."""
    place.load()
    name = PEERS["pisa_sr"]().write(place.folder).name
    script = place.part("nodes.webui.extras").DfosdExtras()
    noise = Image.effect_noise((128, 64), 60).convert("RGB")
    seen: list[bytes] = []
    for pixel in (None, 0.5, 0.0):
        image = SimpleNamespace(image=noise, info={}, nametags=[])
        script.process(image, enable=True, lora=name, scale=1.0, color_fix="none", pixel_strength=pixel)
        assert image.info.get("DFOSD pixel strength") == (None if pixel is None else f"{pixel:g}")
        seen.append(image.image.tobytes())
    assert len(set(seen)) == 3


def test_changed_folder_is_read_again(place: Place) -> None:
    models = place.part("nodes.webui.models")
    name = PEERS["omgsr"]().write(place.folder).name
    before = models.about_lora(name)
    assert before.startswith("OMGSR-S. Licence: none stated. SHA-256: ")
    file = place.folder / name / "unet_lora_adapter" / "adapter_model.safetensors"
    save_file({key: value * 2 for key, value in load_file(file).items()}, file)
    assert models.about_lora(name) != before


def test_origin_is_in_the_infotext_of_imported_ones_only(place: Place) -> None:
    place.load()
    name = PEERS["hypir"]().write(place.folder).name
    script = place.part("nodes.webui.extras").DfosdExtras()
    image = SimpleNamespace(image=Image.new("RGB", (16, 16)), info={}, nametags=[])
    script.process(image, enable=True, lora=name, scale=1.0)
    digest = hashlib.sha256((place.folder / name).read_bytes()).hexdigest()
    expected = f"HYPIR. Licence: HYPIR's own, non-commercial. SHA-256: {digest[:12]}..."
    assert image.info["DFOSD LoRA source"] == expected
    embedded = SimpleNamespace(image=Image.new("RGB", (16, 16)), info={}, nametags=[])
    script.process(embedded, enable=True, lora="embedded small x4", scale=1.0)
    assert "DFOSD LoRA source" not in embedded.info
    assert place.part("nodes.webui.models").about_lora("automatic") == ""


def test_foreign_file_that_is_none_of_the_known_ones_is_refused(place: Place) -> None:
    place.load()
    torch.save({"state_embeddings": {}, "w": torch.zeros(64)}, place.folder / "s3diff.pkl")
    errors = place.part("dfosd_core.errors")
    with pytest.raises(errors.LoraFormatError, match=r"'s3diff.pkl' is S3Diff's"):
        place.run(lora="s3diff.pkl")
    _, used = place.run()  # the automatic choice goes on
    assert used.lora_name == "embedded small x4"
