"""What is read from other methods' files. How they are refused: test_lora_variants.py and test_lora_refused.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.peers import PEERS
from support.small_files import CONFIG, FOLDERS, SMALL, write
from torch import Tensor

from dfosd_core.errors import LoraFormatError
from dfosd_core.lora.file import DfosdLora, ImportedLora, load_lora, save_lora
from dfosd_core.lora.importers import IMPORTERS
from dfosd_core.lora.importers.content import Content
from dfosd_core.lora.open import may_be_lora, open_lora
from dfosd_core.tensor_files import is_pickle


def refused(path: Path) -> str:
    with pytest.raises(LoraFormatError) as error:
        open_lora(path)
    message = str(error.value)
    assert "\n" not in message
    assert f"'{path.name}'" in message
    return message


def test_plain_loras_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"unet.down_blocks.0.resnets.0.conv1.lora_A.weight": torch.zeros(4, 8, 3, 3)}, path)
    assert "an ordinary LoRA without DFOSD's metadata" in refused(path)
    for name in ("x.safetensors", "x.pkl", "x"):
        path = tmp_path / name
        path.write_bytes(b"text")
        assert "is damaged or no model file: expected tensors, found: " in refused(path)
    path.unlink()
    with pytest.raises(LoraFormatError, match="There is no LoRA file"):
        open_lora(path)


@pytest.mark.parametrize("name", SMALL)
def test_content_tells_the_method_whatever_the_name(name: str, tmp_path: Path) -> None:
    path = write(name, tmp_path, SMALL[name]())
    assert may_be_lora(path)
    other = path.rename(tmp_path / ("other" if path.is_dir() else "other.bin"))
    lora = open_lora(other)
    assert isinstance(lora, ImportedLora)
    assert lora.metadata.source == PEERS[name]().source
    assert len(lora.metadata.source_sha256) == 64
    if name == "hypir":
        for other in (tmp_path / "x.safetensors", tmp_path / "x.pth"):
            safetensors.torch.save_file(SMALL[name](), other)
            assert isinstance(open_lora(other), ImportedLora)
        with pytest.raises(LoraFormatError, match="an ordinary LoRA without DFOSD's metadata"):
            load_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02"])
def test_length_of_a_safetensors_header_is_no_pickles_start(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    length = int.from_bytes(start, "little")
    path.write_bytes(length.to_bytes(8, "little") + text.ljust(length) + bytes(4))
    assert not is_pickle(path)
    assert list(safetensors.torch.load_file(path)) == ["x"]


@pytest.mark.parametrize("name", PEERS)
def test_one_importer_knows_each_kind(name: str) -> None:
    content = Content(name="x", values=PEERS[name]().entries, sha256="")
    found = [importer.__name__.rsplit(".", 1)[1] for importer in IMPORTERS if importer.detect(content)]
    assert found == [name]


def test_layers_are_counted_where_the_base_has_stable_diffusions_size(tmp_path: Path) -> None:
    widths = {f"down_blocks.{i}.resnets.0.conv1": width for i, width in enumerate((320, 640, 1280, 1280))}
    widths |= {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": 320, "conv_out": 4}
    tensors: dict[str, Tensor] = {}
    for layer, width in widths.items():
        tensors[f"{layer}.lora_A.default.weight"] = torch.zeros(256, 8)
        tensors[f"{layer}.lora_B.default.weight"] = torch.zeros(width, 256)
    torch.save(tensors, tmp_path / "x.pth")
    assert "expected 257 layers, found 6" in refused(tmp_path / "x.pth")


def test_origin_is_kept_when_saved(tmp_path: Path) -> None:
    imported = open_lora(write("pisa_sr", tmp_path, SMALL["pisa_sr"]()))
    assert isinstance(imported, ImportedLora)
    whole = imported.with_prompt(torch.zeros(1, 77, 16))
    again = open_lora(save_lora(tmp_path / "x.safetensors", whole))
    assert isinstance(again, DfosdLora)
    assert again == whole
    assert again.metadata.license.startswith("Apache-2.0")


@pytest.mark.parametrize("more", ["conv_in.weight", "unet.conv_in.lora_A.weight", "conv_in.alpha", "epoch"])
@pytest.mark.parametrize("name", ["osediff", "pisa_sr"])
def test_tensor_that_is_no_half_of_a_pair_is_named(name: str, more: str, tmp_path: Path) -> None:
    """A weight of the network, a layer behind a network's name, an alpha, a name of another kind."""
    entries = SMALL[name]()
    entries["state_dict_unet"][more] = torch.ones(1)
    assert f"is damaged: expected tensors of a LoRA only, found {more}. Get" in refused(write(name, tmp_path, entries))


@pytest.mark.parametrize(("rank", "alpha"), [(32, 64), (32, 16), (32.0, 32), (True, 1), (None, None)])
def test_omgsr_wants_alpha_equal_to_a_whole_rank(rank: Any, alpha: Any, tmp_path: Path) -> None:
    entries = SMALL["omgsr"]()
    entries[f"{FOLDERS[0]}/{CONFIG}"] = {"r": rank, "lora_alpha": alpha, "peft_type": "LORA"}
    assert f"found {rank!r} and {alpha!r}" in refused(write("omgsr", tmp_path, entries))


@pytest.mark.parametrize("missing", ["pix", "sem"])
def test_pisa_sr_wants_both_parts_on_the_same_layers(missing: str, tmp_path: Path) -> None:
    entries = SMALL["pisa_sr"]()
    part = next(part for part in ("encoder", "decoder") if len(entries[f"unet_lora_{part}_modules_{missing}"]) > 1)
    layer = entries[f"unet_lora_{part}_modules_{missing}"][0]
    state = entries["state_dict_unet"]
    entries["state_dict_unet"] = {
        key: value
        for key, value in state.items()
        if not (key.startswith(f"{layer}.lora_") and f"default_{part}_{missing}." in key)
    }
    assert len(entries["state_dict_unet"]) == len(state) - 2
    names = f"unet_lora_{part}_modules_{missing}"
    entries[names] = [name for name in entries[names] if name != layer]
    assert "expected the same layers twice" in refused(write("pisa_sr", tmp_path, entries))


def test_pisa_srs_stacked_pairs_have_factor_one(tmp_path: Path) -> None:
    pairs = open_lora(write("pisa_sr", tmp_path, SMALL["pisa_sr"]())).pairs
    assert {pair.scaling for pair in pairs.values()} == {1.0}


@pytest.mark.parametrize(("half", "shape"), [("A", (4, 4, 1, 1)), ("A", (4, 5, 3, 3)), ("B", (9, 4, 1, 1))])
def test_pisa_sr_wants_parts_of_one_shape(half: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    entries = SMALL["pisa_sr"]()
    key = next(
        key for key in entries["state_dict_unet"] if f"lora_{half}.default_encoder_sem" in key and "conv_in" in key
    )
    entries["state_dict_unet"][key] = torch.ones(shape)
    assert "expected" in refused(write("pisa_sr", tmp_path, entries))
