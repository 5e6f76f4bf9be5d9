"""The nodes in a small ComfyUI of the tests: which model a run takes, and what it gives."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_graph import EMBEDDED, picture
from fake_place import LORA, Place, Prompt, fake_place
from PIL import Image
from support.decoders import taesd_tensors, vosr_decoder, write_vosr
from support.fakes.comfyui import InterruptProcessingException
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dfosd_core.lora.file import save_lora

SETTINGS = {"scale": 2.0, "color_fix": "none"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fake_place(tmp_path_factory.mktemp("comfy")) as place:
        yield place


@pytest.fixture(scope="module")
def image() -> Tensor:
    return picture(1, 16, 24)


def output(result: dict[str, Any]) -> Tensor:
    return result["result"][0]


def test_ids_and_inputs_are_those_that_workflows_hold(place: Place) -> None:
    mappings = importlib.import_module(f"{place.pack}.nodes.comfy.mappings")
    assert list(mappings.NODE_CLASS_MAPPINGS) == ["DFOSDUpscale", "DFOSDLoadLoRA", "DFOSDColorFix"]
    inputs = place.node("DFOSDUpscale").INPUT_TYPES()
    assert inputs["required"]["lora"][0] == [EMBEDDED, LORA]
    assert list(inputs["required"])[:4] == ["image", "lora", "scale", "long_edge"]
    later = ["pixel_strength", "decoder", "mask", "megapixels", "width", "height", "fit"]
    assert list(inputs["optional"]) == ["model", "vae", "conditioning", "lora_settings", *later]
    inputs = place.node("DFOSDLoadLoRA").INPUT_TYPES()
    assert list(inputs["required"]) == ["model", "lora", "strength"]
    assert list(inputs["optional"]) == ["conditioning"]


def test_embedded_model_needs_no_base(place: Place, image: Tensor) -> None:
    node = place.node("DFOSDUpscale")
    assert node.check_lazy_status(EMBEDDED, model=None, vae=None) == []
    result = node.run(image, EMBEDDED, **SETTINGS)
    own, pipeline = place.part("hosts.own"), place.part("pipeline")
    host, lora = own.load_default(own.fast_dtype("cpu"), "cpu")
    assert torch.equal(output(result), pipeline.upscale(image, host, lora, pipeline.UpscaleSettings(**SETTINGS)))
    (shown,) = result["ui"]["dfosd_before_after"]
    assert all((place.program.folder / "temp" / file["filename"]).is_file() for file in shown.values())
    assert result["ui"]["dfosd_origin"] == [""]


def test_lora_file_and_loaded_lora_give_the_same_image(place: Place, image: Tensor) -> None:
    node, before = place.node("DFOSDUpscale"), place.sd.weights()
    assert node.check_lazy_status(LORA, model=None, vae=place.vae) == ["model"]
    by_file = output(node.run(image, LORA, place.model, place.vae, strength=0.7, **SETTINGS))
    patched, conditioning, timestep, loaded = place.node("DFOSDLoadLoRA").run(place.model, LORA, 0.7)
    assert torch.equal(conditioning[0][0], place.sd.lora.prompt_embeds)
    assert timestep == place.sd.lora.metadata.timestep
    # `lora` and `strength` of the node are not used then.
    by_node = node.run(image, EMBEDDED, patched, place.vae, lora_settings=loaded, strength=0.1, **SETTINGS)
    torch.testing.assert_close(output(by_node), by_file, rtol=0, atol=1e-6)
    base = output(node.run(image, LORA, place.model, place.vae, strength=0.0, **SETTINGS))
    assert (base - by_file).abs().max() > 0.01
    place.model.put_on_weights()
    assert place.sd.weights() == before


def test_pixel_strength_is_refused_where_it_cannot_act(place: Place, image: Tensor) -> None:
    node, error = place.node("DFOSDUpscale"), ValueError
    patched, _, _, loaded = place.node("DFOSDLoadLoRA").run(place.model, LORA, 0.7)
    with pytest.raises(error, match="with DFOSD Load LoRA, found 0.5: its two passes need the plain MODEL"):
        node.run(image, EMBEDDED, patched, place.vae, lora_settings=loaded, pixel_strength=0.5, **SETTINGS)
    with pytest.raises(error, match="with this LoRA of DFOSD, found 0.5: it has no pixel part"):
        node.run(image, LORA, place.model, place.vae, pixel_strength=0.5, **SETTINGS)
    output(node.run(image, LORA, place.model, place.vae, pixel_strength=-1.0, **SETTINGS))


def test_loaded_lora_of_two_parts_has_the_pixel_part_in_full(place: Place, image: Tensor) -> None:
    node, lora = place.node("DFOSDUpscale"), place.sd.lora
    parts = {"pixel": lora.metadata.rank - 1, "semantic": 1}
    two = dataclasses.replace(lora, metadata=dataclasses.replace(lora.metadata, parts=parts))
    file = save_lora(place.program.folder / "models" / "dfosd" / "two.safetensors", two).name
    patched, _, _, loaded = place.node("DFOSDLoadLoRA").run(place.model, file, 0.5)
    by_node = output(node.run(image, EMBEDDED, patched, place.vae, lora_settings=loaded, **SETTINGS))
    by_file = output(node.run(image, file, place.model, place.vae, strength=0.5, **SETTINGS))
    torch.testing.assert_close(by_node, by_file, rtol=0, atol=1e-6)
    whole = output(node.run(image, LORA, place.model, place.vae, strength=0.5, **SETTINGS))
    assert (whole - by_file).abs().max() > 0.01
    exact = output(node.run(image, file, place.model, place.vae, strength=1.0, pixel_strength=1.0, **SETTINGS))
    plain = output(node.run(image, file, place.model, place.vae, strength=1.0, **SETTINGS))
    torch.testing.assert_close(exact, plain, rtol=0, atol=1e-5)


def test_light_decoder_is_listed_by_its_content_and_runs(place: Place, image: Tensor) -> None:
    models = place.program.folder / "models"
    (models / "vae_approx").mkdir(exist_ok=True)
    tensors = taesd_tensors()
    torch.save(tensors, models / "vae_approx" / "taesd_decoder.pth")
    torch.save(tensors, models / "vae_approx" / "taesdxl_decoder.pth")
    torch.save({"0.weight": torch.zeros(64, 3, 3, 3)}, models / "vae_approx" / "taesd_encoder.pth")
    write_vosr(models / "dfosd" / "another_name.pth", vosr_decoder((32, 32, 32, 32), 1))
    node = place.node("DFOSDUpscale")
    inputs = node.INPUT_TYPES()
    assert inputs["optional"]["decoder"][0] == ["full", "another_name.pth", "taesd_decoder.pth"]
    assert "another_name.pth" not in inputs["required"]["lora"][0]
    base = (image, LORA, place.model, place.vae)
    full = output(node.run(*base, decoder="full", **SETTINGS))
    assert torch.equal(output(node.run(*base, **SETTINGS)), full)
    narrow, tiny = (
        output(node.run(*base, decoder=name, **SETTINGS)) for name in ("another_name.pth", "taesd_decoder.pth")
    )
    assert narrow.shape == tiny.shape == full.shape
    assert all((a - b).abs().max() > 0.05 for a, b in ((full, narrow), (full, tiny), (narrow, tiny)))
    assert torch.equal(output(node.run(*base, decoder="taesd_decoder.pth", **SETTINGS)), tiny)
    assert torch.equal(output(node.run(*base, decoder="full", **SETTINGS)), full)
    assert node.IS_CHANGED(LORA, "taesd_decoder.pth") != node.IS_CHANGED(LORA, "full") == node.IS_CHANGED(LORA)
    error = ValueError
    with pytest.raises(error, match="4 channels at 1/8 size for the decoder, found 16 at 1/4"):
        node.run(image, EMBEDDED, decoder="taesd_decoder.pth", **SETTINGS)
    with pytest.raises(error, match="There is no decoder 'gone' in models/dfosd or models/vae_approx"):
        node.run(*base, decoder="gone", **SETTINGS)


def test_bar_moves_and_the_stop_button_ends_a_run(place: Place, image: Tensor) -> None:
    node = place.node("DFOSDUpscale")
    place.program.bars.clear()
    node.run(image, LORA, place.model, place.vae, **SETTINGS)
    assert place.program.bars == [(1, 3), (2, 3), (3, 3)]
    place.program.interrupted = True
    with pytest.raises(InterruptProcessingException):
        node.run(image, LORA, place.model, place.vae, **SETTINGS)


class Largest(TorchDispatchMode):
    """The largest tensor in bytes that was made or touched, but for those of the `given` sizes."""

    def __init__(self, given: set[int]) -> None:
        super().__init__()
        self.given, self.bytes = given, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (list, tuple)) else (made,):
            if isinstance(value, Tensor):
                size = value.untyped_storage().nbytes()
                self.bytes = max(self.bytes, size if size not in self.given else 0)
        return made


def test_film_of_96_frames_is_worked_on_frame_by_frame(place: Place) -> None:
    """Nothing is made that grows with the film but its result; equal frames are equal; the bar moves in each."""
    node, film = place.node("DFOSDUpscale"), torch.rand(96, 8, 12, 3)
    film[::2] = film[0].clone()
    largest: dict[int, int] = {}
    for frames in (2, 8, 96):  # the first one puts the LoRA on
        place.program.bars.clear()
        part = film[:frames].clone()
        mask = torch.ones(frames, 8, 12)
        with Largest({part.nbytes, 4 * part.nbytes, mask.nbytes}) as mode:
            found = output(node.run(part, LORA, place.model, place.vae, mask=mask, **SETTINGS))
        largest[frames] = mode.bytes
        assert place.program.bars == [(i + 1, 3 * frames) for i in range(3 * frames)]
    assert largest[96] == largest[8]
    assert torch.equal(found[::2], found[:1].expand(48, -1, -1, -1))
    assert len({one.numpy().tobytes() for one in found}) == 1 + 48


def test_missing_inputs_are_named(place: Place, image: Tensor) -> None:
    with pytest.raises(ValueError, match="needs a base model") as caught:
        place.node("DFOSDUpscale").run(image, LORA, vae=place.vae, **SETTINGS)
    assert str(caught.value) == (f"This LoRA needs a base model: connect model of its base, or choose '{EMBEDDED}'.")
    with pytest.raises(ValueError, match="There is no LoRA 'gone' in models/dfosd or models"):
        place.node("DFOSDUpscale").run(image, "gone", place.model, place.vae, **SETTINGS)


def test_another_file_under_the_same_name_is_read_anew(place: Place, tmp_path: Path) -> None:
    node = place.node("DFOSDUpscale")
    file = place.program.folder / "models" / "loras" / "changing.safetensors"
    save_lora(file, place.sd.lora)
    first = node.IS_CHANGED(file.name)
    assert (node.IS_CHANGED(EMBEDDED), node.IS_CHANGED("gone")) == ("", "")
    assert node._file.read(file.name) is node._file.read(file.name)
    kept = node._file.read(file.name)
    save_lora(file, place.sd.lora)
    file.touch()
    assert node.IS_CHANGED(file.name) != first
    assert node._file.read(file.name) is not kept


@pytest.mark.parametrize("there", [True, False])
def test_clones_are_kept_while_base_stays_whatever_the_host_tells_of_its_cache(
    place: Place, image: Tensor, there: bool
) -> None:
    """ComfyUI 0.33 gives None for lazy inputs that it has, and asks again."""
    node = place.node("DFOSDUpscale")
    base = {"model": place.model, "vae": place.vae} if there else {"model": None, "vae": None}
    asked = node.check_lazy_status(LORA, unique_id="3", dynprompt=Prompt("a.safetensors"), **base)
    assert asked == ([] if there else ["model", "vae"])
    node.run(image, LORA, place.model, place.vae, **SETTINGS)
    kept = node._clones._clones
    node.check_lazy_status(LORA, unique_id="3", dynprompt=Prompt("a.safetensors"), **base)
    node.run(image, LORA, place.model, place.vae, **SETTINGS)
    assert node._clones._clones is kept


@pytest.mark.parametrize("other", [Prompt("b.safetensors"), Prompt("a.safetensors", strength=0.5)])
def test_bases_last_clones_are_let_go_before_another_is_loaded(place: Place, image: Tensor, other: Prompt) -> None:
    node = place.node("DFOSDUpscale")
    lazy = {"model": None, "vae": None}
    node.check_lazy_status(LORA, unique_id="3", dynprompt=Prompt("a.safetensors"), **lazy)
    node.run(image, LORA, place.model, place.vae, **SETTINGS)
    assert node._clones._key
    assert node.check_lazy_status(LORA, unique_id="3", dynprompt=other, **lazy) == ["model", "vae"]
    assert not node._clones._key


def test_request_without_tile_inputs_and_one_with_links_are_checked(place: Place) -> None:
    check = place.node("DFOSDUpscale").VALIDATE_INPUTS
    assert check() is True
    assert check(long_edge=None, unet_tile=512, unet_overlap=None) is True
    assert "Give only one of them" in check(long_edge=1024, short_edge=512)
    assert check(megapixels=0, width=0, height=0) is True
    assert "Give only one of them" in check(long_edge=0, megapixels=2.0, width=512, height=512)
    assert "width 512 alone" in check(width=512, height=0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"scale": 1.5}, (24, 36)),
        ({"long_edge": 60}, (40, 60)),
        ({"short_edge": 60}, (60, 90)),
        ({"megapixels": 0.01}, (82, 122)),
        ({"width": 60, "height": 60}, (60, 60)),
        ({"width": 60, "height": 60, "fit": "pad"}, (60, 60)),
    ],
)
def test_each_way_to_give_a_size(place: Place, image: Tensor, size: dict[str, Any], expected: tuple[int, int]) -> None:
    """Of a 24x16 image; the widgets of the other ways are there, and say "not given"."""
    widgets = {"long_edge": 0, "short_edge": 0, "megapixels": 0.0, "width": 0, "height": 0, "fit": "crop"}
    node, mask = place.node("DFOSDUpscale"), torch.zeros(1, 16, 24)
    result = node.run(image, EMBEDDED, mask=mask, **{**SETTINGS, **widgets, **size})
    found, parts = output(result), place.part("images")
    assert found.shape == (1, *expected, 3)
    settings = place.part("settings").UpscaleSettings(**{"scale": 2.0, **size})
    torch.testing.assert_close(found, parts.place(image, settings.placement(16, 24)), rtol=0, atol=1e-6)
    for file in result["ui"]["dfosd_before_after"][0].values():
        with Image.open(place.program.folder / "temp" / file["filename"]) as shown:
            assert shown.size == (expected[1], expected[0])


def test_size_out_of_reach_is_refused_before_anything_is_loaded(place: Place, image: Tensor) -> None:
    with pytest.raises(ValueError, match="Expected megapixels from 0.000384 to 0.0246 for a 24x16 image") as caught:
        place.node("DFOSDUpscale").run(image, "gone", megapixels=2.0)
    assert "\n" not in str(caught.value)


def test_result_that_is_not_finite_is_an_error(place: Place, image: Tensor) -> None:
    with pytest.raises(ValueError, match="not finite"):
        place.node("DFOSDUpscale").run(image * torch.nan, EMBEDDED, **SETTINGS)


def test_names_that_people_search_for_find_the_nodes(place: Place) -> None:
    for name in ("DFOSDUpscale", "DFOSDLoadLoRA", "DFOSDColorFix"):
        assert all(isinstance(alias, str) for alias in place.node(name).SEARCH_ALIASES)


def test_rarely_used_inputs_are_advanced(place: Place) -> None:
    inputs = place.node("DFOSDUpscale").INPUT_TYPES()
    every = {**inputs["required"], **inputs["optional"]}
    assert [name for name, (_, *facts) in every.items() if facts and facts[0].get("advanced")] == [
        "unet_tile",
        "unet_overlap",
        "vae_tile",
        "vae_overlap",
        "pixel_strength",
    ]


def test_outside_the_mask_the_image_stays_as_it_was(place: Place) -> None:
    images = picture(2, 16, 24)
    node, mask = place.node("DFOSDUpscale"), torch.zeros(1, 16, 24)
    mask[:, :, 12:] = 1.0
    all_of_it = output(node.run(images, EMBEDDED, **SETTINGS))
    some_of_it = output(node.run(images, EMBEDDED, mask=mask, **SETTINGS))
    parts = place.part("images")
    bicubic = parts.to_bhwc(parts.resize(parts.to_bchw(images), (32, 48))).clamp(0, 1)
    # Pixels beside the mask's edge are mixed.
    torch.testing.assert_close(some_of_it[:, :, :18], bicubic[:, :, :18], rtol=0, atol=1e-6)
    torch.testing.assert_close(some_of_it[:, :, 30:], all_of_it[:, :, 30:], rtol=0, atol=1e-6)
    assert (all_of_it[:, :, :18] - bicubic[:, :, :18]).abs().max() > 0.01


def test_masks_that_are_not_the_images_are_refused_before_any_computing(place: Place) -> None:
    images = picture(2, 16, 24)
    with pytest.raises(ValueError, match=r"Expected one mask or 2, .* found a tensor of shape \(3, 16, 24\)"):
        place.node("DFOSDUpscale").run(images, EMBEDDED, mask=torch.ones(3, 16, 24), **SETTINGS)
