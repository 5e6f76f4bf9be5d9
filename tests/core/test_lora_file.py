"""The LoRA file: the same content gives the same bytes, what is saved is what is loaded, and bad files are
named.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfosd_core.errors import LoraFormatError
from dfosd_core.lora.file import DfosdLora, LoraPair, load_lora, save_lora
from dfosd_core.lora.metadata import BaseLayout, LoraMetadata

LAYOUT = BaseLayout(
    context_dim=12,
    in_channels=4,
    out_channels=4,
    latent_channels=4,
    latent_factor=8,
    block_out_channels=(8, 16),
    prediction_type="epsilon",
)
CONV = "lora_unet_mid_block_resnets_0_conv1"
LINEAR = "lora_unet_mid_block_attentions_0_proj_in"
ENCODER = "lora_vae_encoder_conv_in"


def make_lora(seed: int = 0, dtype: torch.dtype = torch.float16, **metadata: Any) -> DfosdLora:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    fields: dict[str, Any] = {
        "base_layout": LAYOUT,
        "timestep": 399,
        "rank": 2,
        "lora_alpha": 2.0,
        "base_model": "a tiny base",
        "base_model_sha256": "ab" * 32,
        "train_config": {"steps": 10, "loss": {"ea_dists": 1.0}, "crops": (64, 96)},
        "git_commit": "0" * 40,
        "extra": {"modelspec.title": "Tiny", "modelspec.license": "Apache-2.0"},
    }
    return DfosdLora(
        pairs={
            CONV: LoraPair(down=noise(2, 8, 3, 3), up=noise(8, 2, 1, 1), alpha=2.0),
            LINEAR: LoraPair(down=noise(2, 8), up=noise(8, 2), alpha=0.1),
            ENCODER: LoraPair(down=noise(2, 3, 3, 3), up=noise(8, 2, 1, 1), alpha=8.0),
        },
        prompt_embeds=noise(1, 5, 12),
        metadata=LoraMetadata(**{**fields, **metadata}),
        set_weights={"lora_unet_conv_in": noise(8, 4, 3, 3)},
        set_biases={"lora_unet_conv_in": noise(8)},
    )


def write_raw(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def header_of(path: Path) -> dict[str, str]:
    blob = path.read_bytes()
    return json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]


def rewritten(path: Path, tensors: Mapping[str, Tensor | None] | None = None, **entries: str | None) -> Path:
    """The file at `path` written again with tensors or header entries changed or (None) taken away."""
    contents: dict[str, Tensor | None] = {**safetensors.torch.load_file(path), **(tensors or {})}
    header: dict[str, str | None] = {**header_of(path), "modelspec.hash_sha256": None}
    header.update({key.replace("__", "."): value for key, value in entries.items()})
    kept = {key: value for key, value in contents.items() if value is not None}
    return write_raw(path, kept, {key: value for key, value in header.items() if value is not None})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_lora(tmp_path / "x4.safetensors", make_lora())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_load_returns_what_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    lora = make_lora(dtype=dtype)
    loaded = load_lora(save_lora(tmp_path / "a.safetensors", lora))
    assert loaded == lora
    assert loaded.pairs[CONV].down.dtype == dtype
    assert loaded.metadata == lora.metadata
    assert loaded.metadata.train_config["crops"] == [64, 96]
    assert torch.equal(loaded.set_weights["lora_unet_conv_in"], lora.set_weights["lora_unet_conv_in"])
    assert torch.equal(loaded.set_biases["lora_unet_conv_in"], lora.set_biases["lora_unet_conv_in"])


def test_any_difference_makes_loras_unequal() -> None:
    lora = make_lora()
    assert lora == make_lora()
    assert lora != make_lora(seed=1)
    assert lora != make_lora(timestep=199)
    assert lora != make_lora(rule="residual")
    assert lora != make_lora(dtype=torch.float32)
    assert lora != dataclasses.replace(lora, set_weights={})


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    lora = make_lora()
    backwards = dataclasses.replace(lora, pairs=dict(reversed(list(lora.pairs.items()))))
    first = save_lora(tmp_path / "a.safetensors", lora).read_bytes()
    assert save_lora(tmp_path / "b.safetensors", backwards).read_bytes() == first
    assert save_lora(tmp_path / "c.safetensors", load_lora(tmp_path / "a.safetensors")).read_bytes() == first
    assert save_lora(tmp_path / "d.safetensors", make_lora(seed=1)).read_bytes() != first


def test_saved_file_has_the_names_and_header_other_programs_read(file: Path) -> None:
    tensors = safetensors.torch.load_file(file)
    assert {
        f"{CONV}.lora_down.weight",
        f"{CONV}.lora_up.weight",
        f"{CONV}.alpha",
        "dfosd.prompt_embeds",
    } <= set(tensors)
    assert tensors[f"{LINEAR}.alpha"].item() == pytest.approx(0.1)
    header = header_of(file)
    assert header["ss_network_dim"] == "2"
    assert header["modelspec.architecture"] == "dfosd-small-base/lora"
    assert header["modelspec.title"] == "Tiny"
    assert len(header["modelspec.hash_sha256"]) == 66


@pytest.mark.parametrize(
    ("context_dim", "prediction_type", "name"),
    [(768, "epsilon", "v1"), (1024, "epsilon", "v2-512"), (1024, "v_prediction", "v2-768-v")],
)
def test_header_names_the_base_as_modelspec_does(context_dim: int, prediction_type: Any, name: str) -> None:
    layout = dataclasses.replace(LAYOUT, context_dim=context_dim, prediction_type=prediction_type)
    metadata = dataclasses.replace(make_lora().metadata, base_layout=layout)
    assert metadata.to_header()["modelspec.architecture"] == f"stable-diffusion-{name}/lora"


def test_origin_is_in_the_header_where_there_is_one(tmp_path: Path, file: Path) -> None:
    origin: dict[str, Any] = {"source": "OSEDiff", "source_sha256": "cd" * 32, "license": "none stated"}
    assert not [key for key in header_of(file) if key.removeprefix("dfosd.") in origin]
    imported = save_lora(tmp_path / "imported.safetensors", make_lora(**origin))
    assert {key: header_of(imported)[f"dfosd.{key}"] for key in origin} == origin
    assert load_lora(imported) == make_lora(**origin)
    assert load_lora(file).metadata.source == ""


def test_peft_names_load_as_the_same_lora(tmp_path: Path, file: Path) -> None:
    lora = dataclasses.replace(make_lora(), set_weights={}, set_biases={})
    save_lora(file, lora)
    tensors = safetensors.torch.load_file(file)
    renamed: dict[str, Tensor] = {"dfosd.prompt_embeds": tensors["dfosd.prompt_embeds"]}
    dotted = {CONV: "mid_block.resnets.0.conv1", LINEAR: "mid_block.attentions.0.proj_in"}
    dotted[ENCODER] = "encoder.conv_in"
    spellings = ("unet.{}.lora_{}.weight", "{}.lora_{}.default.weight", "vae.{}.lora_{}.weight")
    for (layer, pair), spelling in zip(lora.pairs.items(), spellings, strict=True):
        name = dotted[layer]
        renamed[spelling.format(name, "A")], renamed[spelling.format(name, "B")] = pair.down, pair.up
        renamed[spelling.format(name, "A").split(".lora_A")[0] + ".alpha"] = torch.tensor(pair.alpha)
    header = {key: value for key, value in header_of(file).items() if key != "modelspec.hash_sha256"}
    assert load_lora(write_raw(tmp_path / "peft.safetensors", renamed, header)) == lora


def test_pair_without_alpha_has_factor_one(file: Path) -> None:
    assert load_lora(rewritten(file, {f"{CONV}.alpha": None})).pairs[CONV].alpha == 2.0


def test_failed_save_leaves_the_old_file_and_no_other(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_lora(file, make_lora(seed=1))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def fails(path: Path, message: str) -> None:
    with pytest.raises(LoraFormatError, match=message) as error:
        load_lora(path)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    fails(
        tmp_path / "no.safetensors",
        r"There is no LoRA file '.*no\.safetensors'. Give the path of a .safetensors",
    )


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"PK\x03\x04 a pickle", b"\xff" * 64, b"not a model at all, but text"]
)
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    fails(path, r"'x\.safetensors' is damaged or not a safetensors file .*Get the file again, or convert it")


@given(cut=st.floats(0, 0.999))
@settings(max_examples=25, deadline=None)
def test_truncated_file_is_refused_wherever_it_ends(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    path = save_lora(tmp_path_factory.getbasetemp() / "cut.safetensors", make_lora())
    blob = path.read_bytes()
    path.write_bytes(blob[: int(cut * len(blob))])
    fails(path, "is damaged or not a safetensors file")


def test_changed_data_is_noticed(file: Path) -> None:
    blob = bytearray(file.read_bytes())
    blob[-1] ^= 1
    file.write_bytes(blob)
    fails(file, r"is damaged: its tensors do not match modelspec.hash_sha256. Get the file again")


def test_values_not_finite_are_refused(file: Path) -> None:
    tensors = {f"{CONV}.lora_up.weight": torch.full((8, 2, 1, 1), float("nan"))}
    fails(rewritten(file, tensors), f"values that are not finite in {CONV}.lora_up.weight")


def test_ordinary_lora_and_base_model_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_raw(path, {"lora_unet_conv_in.lora_down.weight": torch.zeros(1, 4, 3, 3)})
    fails(path, "is an ordinary LoRA without DFOSD's metadata")
    write_raw(path, {"model.diffusion_model.out.2.bias": torch.zeros(4)}, {"format": "pt"})
    fails(path, "is not a DFOSD LoRA but a base model. Give it as the base")
    write_raw(path, {"anything": torch.zeros(4)})
    fails(path, "is not a DFOSD LoRA but some other safetensors file")


def test_metadata_at_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    cases: list[tuple[dict[str, str | None], str]] = [
        (
            {"dfosd__format_version": "2"},
            "has DFOSD format version '2', this program reads '1'. Update DFOSD",
        ),
        ({"dfosd__timestep": None}, "lacks the metadata entry 'dfosd.timestep'"),
        ({"dfosd__timestep": "soon"}, "unreadable metadata: invalid literal"),
        ({"dfosd__timestep": "1000"}, "unreadable metadata: timestep must be in 0..999, got 1000"),
        ({"dfosd__prediction": "x0"}, "unreadable metadata: prediction must be one of"),
        ({"dfosd__rank": "0"}, "unreadable metadata: rank and scale must be positive"),
        ({"dfosd__base_layout": "{}"}, "lacks the metadata entry 'block_out_channels'"),
        ({"dfosd__base_layout": "no json"}, "unreadable metadata"),
        ({"dfosd__train_config": "{"}, "unreadable metadata"),
    ]
    for entries, message in cases:
        save_lora(path, make_lora())
        fails(rewritten(path, None, **entries), message)


def test_tensors_at_fault_are_named(file: Path) -> None:
    cases: list[tuple[dict[str, Tensor | None], str]] = [
        ({"dfosd.prompt_embeds": None}, "lacks the tensor dfosd.prompt_embeds"),
        (
            {"dfosd.prompt_embeds": torch.zeros(1, 5, 11)},
            r"prompt_embeds must be \(1, N, 12\), got \(1, 5, 11\)",
        ),
        ({f"{CONV}.lora_up.weight": None}, "is incomplete: 'up'"),
        ({f"{CONV}.lora_down.weight": torch.zeros(3, 8, 3, 3)}, "are not a low-rank pair"),
        ({"text_model.x": torch.zeros(1)}, r"has 1 of 12 tensors that are no LoRA's, first: text_model\.x"),
        (
            {"unet.mid_block.resnets.0.conv1.lora_A.weight": torch.zeros(2, 8, 3, 3)},
            rf"names the layer {CONV} twice \(down\)",
        ),
    ]
    for tensors, message in cases:
        save_lora(file, make_lora())
        fails(rewritten(file, tensors), message)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((3, 5), (4, 2)),
        ((3, 5), (4, 3, 2)),
        ((5,), (4, 1)),
        ((1, 5), (4,)),
        ((0, 5), (4, 0)),
        ((2, 4, 3, 3), (4, 3, 1, 1)),
    ],
)
def test_halves_of_no_product_are_refused(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are not a low-rank pair"):
        LoraPair(down=torch.ones(down), up=torch.ones(up), alpha=1.0)
