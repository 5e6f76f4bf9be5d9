"""The nodes in a small ComfyUI of the tests, with another method's LoRA: the list, its prompt, what is said of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_graph import EMBEDDED, picture
from fake_place import LORA, Place, Prompt, fake_place
from support.fakes.networks import UNET, TinySd
from torch import Tensor
from torch.nn import functional

from dfosd_core.lora.names import UNET_PREFIX, kohya_table
from dfosd_core.networks.unet import build_unet

HYPIR = "HYPIR_sd2.pth"
OMGSR = "OMGSR-S"
PARTS = ("unet_lora_adapter", "vae_encoder_lora_adapter")
SETTINGS = {"scale": 2.0, "color_fix": "none"}


def write_hypir(path: Path, sd: TinySd) -> Path:
    """The UNet's pairs of the base's LoRA as HYPIR's file has them: rank 256, no alpha, which is 256."""
    tensors: dict[str, Tensor] = {}
    for layer, module in kohya_table(build_unet(UNET, "tiny"), UNET_PREFIX).items():
        if pair := sd.lora.pairs.get(layer):
            more = 256 - pair.rank
            down = functional.pad(pair.down, (0, 0) * (pair.down.ndim - 1) + (0, more))
            up = functional.pad(pair.up, (0, 0) * (pair.up.ndim - 2) + (0, more))
            tensors[f"{module}.lora_A.default.weight"] = down
            tensors[f"{module}.lora_B.default.weight"] = up * (pair.alpha / pair.rank)
    torch.save(tensors, path)
    return path


def write_omgsr_names(folder: Path) -> None:
    """Its files, empty."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / part / name).touch()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fake_place(tmp_path_factory.mktemp("comfy")) as place:
        write_hypir(place.program.folder / "models" / "loras" / HYPIR, place.sd)
        yield place


@pytest.fixture(scope="module")
def image() -> Tensor:
    return picture(1, 16, 24)


@pytest.fixture(scope="module")
def conditioning(place: Place) -> Any:
    """As CLIP Text Encode gives it."""
    embedding = torch.randn(1, 77, place.sd.layout.context_dim, generator=torch.Generator().manual_seed(2))
    return [[embedding, {"pooled_output": None}]]


def output(result: dict[str, Any]) -> Tensor:
    return result["result"][0]


def names(place: Place) -> list[str]:
    return place.node("DFOSDLoadLoRA").INPUT_TYPES()["required"]["lora"][0]


def test_list_has_files_of_all_kinds_and_omgsrs_folder_as_one_entry(place: Place) -> None:
    models = place.program.folder / "models"
    for file in ("dfosd/osediff.pkl", "dfosd/notes.txt", "loras/people/style.safetensors", "loras/old.ckpt"):
        (models / file).parent.mkdir(exist_ok=True)
        (models / file).touch()
    write_omgsr_names(models / "dfosd" / OMGSR)
    write_omgsr_names(models / "loras" / "mine" / "omgsr")
    (models / "loras" / "half" / PARTS[0]).mkdir(parents=True)
    (models / "loras" / "half" / PARTS[0] / "adapter_model.safetensors").touch()
    (models / "loras" / "linked").symlink_to(models / "loras" / "mine" / "omgsr", target_is_directory=True)
    assert names(place) == [
        *(OMGSR, "osediff.pkl", LORA),
        *(HYPIR, f"half/{PARTS[0]}/adapter_model.safetensors", "linked", "mine/omgsr", "people/style.safetensors"),
    ]
    assert place.node("DFOSDUpscale").INPUT_TYPES()["required"]["lora"][0] == [EMBEDDED, *names(place)]


def test_another_file_in_a_chosen_folder_is_seen(place: Place) -> None:
    write_omgsr_names(place.program.folder / "models" / "loras" / "changing")
    node = place.node("DFOSDUpscale")
    first = node.IS_CHANGED("changing")
    assert first
    (place.program.folder / "models" / "loras" / "changing" / PARTS[1] / "adapter_model.safetensors").write_text("more")
    assert node.IS_CHANGED("changing") not in ("", first)


def test_image_under_a_conditioning_is_the_pipelines(place: Place, image: Tensor, conditioning: Any) -> None:
    node, before = place.node("DFOSDUpscale"), place.sd.weights()
    result = node.run(image, HYPIR, place.model, place.vae, conditioning, strength=0.7, **SETTINGS)
    place.model.put_on_weights()
    assert place.sd.weights() == before
    lora = place.part("lora.open").open_lora(place.program.folder / "models" / "loras" / HYPIR)
    assert lora.metadata.timestep == 200
    host = place.part("hosts.comfy.host").ComfyHost(place.model, place.vae)
    settings = place.part("settings").UpscaleSettings(strength=0.7, **SETTINGS)
    expected = place.part("pipeline").upscale(image, host, lora.with_prompt(conditioning[0][0]), settings)
    torch.testing.assert_close(output(result), expected, rtol=0, atol=1e-6)
    other = node.run(image, HYPIR, place.model, place.vae, [[conditioning[0][0] * 0, {}]], strength=0.7, **SETTINGS)
    assert (output(other) - expected).abs().max() > 1e-3


def test_load_lora_hands_the_conditioning_on(place: Place, image: Tensor, conditioning: Any) -> None:
    node = place.node("DFOSDUpscale")
    alone = output(node.run(image, HYPIR, place.model, place.vae, conditioning, strength=0.7, **SETTINGS))
    load = place.node("DFOSDLoadLoRA")
    patched, handed_on, timestep, settings = load.run(place.model, HYPIR, 0.7, conditioning)
    assert torch.equal(handed_on[0][0], conditioning[0][0])
    assert timestep == 200
    together = node.run(image, EMBEDDED, patched, place.vae, lora_settings=settings, **SETTINGS)
    torch.testing.assert_close(output(together), alone, rtol=0, atol=1e-6)
    assert together["ui"]["dfosd_origin"][0].startswith("HYPIR. ")
    _, own, _, _ = load.run(place.model, LORA, 1.0, conditioning)
    assert torch.equal(own[0][0], conditioning[0][0])


def test_without_a_conditioning_the_line_says_what_to_connect(place: Place, image: Tensor) -> None:
    for run in (
        lambda: place.node("DFOSDUpscale").run(image, HYPIR, place.model, place.vae, **SETTINGS),
        lambda: place.node("DFOSDLoadLoRA").run(place.model, HYPIR, 1.0),
    ):
        with pytest.raises(ValueError, match="empty text") as caught:
            run()
        assert str(caught.value) == (
            "Expected a conditioning for the LoRA of HYPIR, whose file holds no prompt, found none. Connect CLIP Text "
            "Encode with an empty text, and to it the CLIP of the same checkpoint as the model."
        )


def test_conditioning_of_another_base_is_refused(place: Place, image: Tensor) -> None:
    other = [[torch.zeros(1, 77, 768), {}]]
    with pytest.raises(ValueError, match=r"conditioning of width 24, .*found \(1, 77"):
        place.node("DFOSDUpscale").run(image, HYPIR, place.model, place.vae, other, **SETTINGS)


def test_embedded_model_does_without_a_connected_conditioning(place: Place, image: Tensor) -> None:
    node = place.node("DFOSDUpscale")
    assert node.check_lazy_status(EMBEDDED, model=None, vae=None, conditioning=None) == []
    with_one = node.run(image, EMBEDDED, conditioning=[[torch.zeros(1, 77, 768), {}]], **SETTINGS)
    assert torch.equal(output(with_one), output(node.run(image, EMBEDDED, **SETTINGS)))


def test_another_caption_makes_no_new_clones(place: Place, image: Tensor, conditioning: Any) -> None:
    node, prompt = place.node("DFOSDUpscale"), {"unique_id": "3", "dynprompt": Prompt("a.safetensors")}
    base = {"model": place.model, "vae": place.vae}
    node.check_lazy_status(HYPIR, **base, **prompt, conditioning=None)
    node.run(image, HYPIR, place.model, place.vae, conditioning, **SETTINGS)
    kept = node._clones._clones
    assert node.check_lazy_status(HYPIR, **base, **prompt, conditioning=None) == ["conditioning"]
    node.run(image, HYPIR, place.model, place.vae, [[conditioning[0][0][:, :9], {}]], **SETTINGS)
    assert node._clones._clones is kept
    node.run(image, LORA, place.model, place.vae, conditioning, **SETTINGS)
    assert node._clones._clones is not kept


def test_origin_is_shown_of_a_foreign_file_and_of_what_was_made_from_one(
    place: Place, image: Tensor, conditioning: Any
) -> None:
    folder = place.program.folder / "models" / "loras"
    node = place.node("DFOSDUpscale")
    sha256 = hashlib.sha256((folder / HYPIR).read_bytes()).hexdigest()
    expected = f"HYPIR. Licence: HYPIR's own, non-commercial. SHA-256: {sha256[:12]}..."
    result = node.run(image, HYPIR, place.model, place.vae, conditioning, **SETTINGS)
    assert result["ui"]["dfosd_origin"] == [expected]
    lora = place.part("lora.open").open_lora(folder / HYPIR).with_prompt(conditioning[0][0])
    place.part("lora.file").save_lora(folder / "converted.safetensors", lora)
    result = node.run(image, "converted.safetensors", place.model, place.vae, **SETTINGS)
    assert result["ui"]["dfosd_origin"] == [expected]


def test_lora_of_something_else_is_refused_in_one_line(place: Place, image: Tensor, conditioning: Any) -> None:
    torch.save({"unet": {"conv_in.weight": torch.zeros(1)}}, place.program.folder / "models" / "loras" / "other.pkl")
    with pytest.raises(ValueError, match="other.pkl") as caught:
        place.node("DFOSDUpscale").run(image, "other.pkl", place.model, place.vae, conditioning, **SETTINGS)
    assert str(caught.value).startswith("'other.pkl' ")
    assert "\n" not in str(caught.value)
