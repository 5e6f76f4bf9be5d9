"""Foreign LoRA files that are damaged, changed or meant to do harm: each is refused in one line, and none runs code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.peers import OMGSR_FOLDERS, PEERS, Entries, Peer
from torch import Tensor

from dfosd_core.errors import LoraFormatError
from dfosd_core.lora.file import DfosdLora, load_lora, save_lora
from dfosd_core.lora.importers import IMPORTERS
from dfosd_core.lora.importers.content import Content, ImportedLora
from dfosd_core.lora.open import may_be_lora, open_lora

PICKLES = ("osediff", "pisa_sr", "hypir")


@cache
def small(name: str) -> Peer:
    """The peer's file; HYPIR's, whose rank is 256, with a few of its layers only."""
    peer = PEERS[name]()
    if name != "hypir":
        return peer
    kept = ("down_blocks.0.resnets.0.conv1", "down_blocks.1.resnets.0.conv1", "conv_out", "attn2.to_k")
    entries = {key: value for key, value in peer.entries.items() if any(part in key for part in kept)}
    return Peer(file_name=peer.file_name, source=peer.source, entries=entries, image=peer.image)


def copied(name: str) -> Entries:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in small(name).entries.items()}


def tables(entries: Entries) -> list[dict[str, Any]]:
    """The dictionaries that hold tensors: the file itself, for HYPIR's."""
    nested = [v for v in entries.values() if isinstance(v, dict) and any(isinstance(x, Tensor) for x in v.values())]
    return nested or [entries]


def refused(path: Path) -> str:
    with pytest.raises(LoraFormatError) as error:
        open_lora(path)
    message = str(error.value)
    assert "\n" not in message
    assert f"'{path.name}'" in message
    return message


TENSOR_CHANGES: dict[str, Callable[[Tensor], object]] = {
    "not_finite": lambda x: torch.full_like(x, float("nan")),
    "infinite": lambda x: torch.cat([x.flatten()[:-1], torch.tensor([float("inf")])]).reshape(x.shape),
    "whole_numbers": lambda x: x.int(),
    "double": lambda x: x.double(),
    "longer": lambda x: torch.cat([x, x[:1]]),
    "shorter": lambda x: x[:-1],
    "wider": lambda x: torch.cat([x, x], dim=1) if x.ndim > 1 else torch.cat([x, x]),
    "flat": lambda x: x.flatten(),
    "one_value": lambda x: x.flatten()[0].clone(),
    "empty": lambda x: x[:0],
}
NAME_CHANGES: dict[str, Callable[[str], str | None]] = {
    "missing_half": lambda key: None,
    "renamed_half": lambda key: key.replace(".lora_", "_.lora_").replace("base_layer", "base_player"),
    "other_part": lambda key: key.replace("lora_A", "lora_C").replace("lora_B", "lora_C").replace("base", "bass"),
}


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("change", [*TENSOR_CHANGES, *NAME_CHANGES])
@pytest.mark.parametrize("name", PEERS)
def test_changed_tensor_is_refused(name: str, change: str, where: float, tmp_path: Path) -> None:
    """208 variants: of each table of tensors, one at four places."""
    for i in range(len(tables(copied(name)))):
        entries = copied(name)
        table = tables(entries)[i]
        tensors = sorted(key for key, value in table.items() if isinstance(value, Tensor))
        key = tensors[int(where * len(tensors))]
        if change in TENSOR_CHANGES:
            another_base = change in (["wider"] if "lora_A" in key else ["longer", "shorter"]) and "lora_" in key
            if another_base or (change == "flat" and table[key].ndim == 1):
                continue  # refused when it meets a base; no change at all
            table[key] = TENSOR_CHANGES[change](table[key])
        else:
            new = NAME_CHANGES[change](key)
            value = table.pop(key)
            if new is not None:
                table[new] = value
        (tmp_path / str(i)).mkdir()
        message = refused(small(name).write(tmp_path / str(i), entries))
        assert "expected" in message
        assert "found" in message


@pytest.mark.parametrize("name", PEERS)
def test_more_than_belongs_there_is_refused(name: str, tmp_path: Path) -> None:
    for i in range(len(tables(copied(name)))):
        for j, extra in enumerate(("extra.weight", "conv_new.lora_A.default.weight", "a\nb")):
            entries = copied(name)
            tables(entries)[i][extra] = torch.zeros(4, 4)
            (tmp_path / f"{i}{j}").mkdir()
            assert "expected" in refused(small(name).write(tmp_path / f"{i}{j}", entries))


@pytest.mark.parametrize("value", [None, 0, -1, 3, 5, 4.0, "4", True, [4], 1 << 40])
@pytest.mark.parametrize("key", ["rank_unet", "rank_vae", "lora_rank_unet_pix", "lora_rank_unet_sem"])
def test_wrong_rank_entry_is_refused(key: str, value: object, tmp_path: Path) -> None:
    name = "osediff" if key.startswith("rank") else "pisa_sr"
    message = refused(small(name).write(tmp_path, {**copied(name), key: value}))
    assert "expected" in message
    assert "found" in message


@pytest.mark.parametrize("name", ["osediff", "pisa_sr", "omgsr"])
def test_missing_or_foreign_entry_is_refused(name: str, tmp_path: Path) -> None:
    for i, key in enumerate(small(name).entries):
        for j, value in enumerate((None, "text", ["text"], {"a": "text"}, [[1]])):
            entries = copied(name)
            del entries[key]
            if value is not None:
                if key in OMGSR_FOLDERS:
                    continue
                entries[key] = value
            (tmp_path / f"{i}_{j}").mkdir()
            refused(small(name).write(tmp_path / f"{i}_{j}", entries))


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 31},
        {"r": None},
        {"r": "32"},
        {"lora_alpha": 8},
        {"use_dora": True},
        {"use_rslora": True},
        {"alpha_pattern": {"conv1": 4}},
        {"rank_pattern": {"conv1": 4}},
    ],
)
def test_other_adapter_settings_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    entries = copied("omgsr")
    key = f"{OMGSR_FOLDERS[0]}/adapter_config.json"
    entries[key] = entries[key] | settings
    assert "expected" in refused(small("omgsr").write(tmp_path, entries))


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", PEERS)
def test_truncated_file_is_refused(name: str, part: float, tmp_path: Path) -> None:
    path = small(name).write(tmp_path)
    file = path / OMGSR_FOLDERS[1] / "adapter_model.safetensors" if path.is_dir() else path
    blob = file.read_bytes()
    file.write_bytes(blob[: int(part * len(blob))])
    with pytest.raises(LoraFormatError, match=f"^'{file.name}' is ") as error:
        open_lora(path)
    assert "\n" not in str(error.value)


class Harm:
    """Unpickled as it asks for, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["file", "entry", "nested", "bare"])
@pytest.mark.parametrize("name", PICKLES)
def test_code_in_a_pickle_is_not_run(name: str, place: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / small(name).file_name
    entries: Any = copied(name)
    if place in ("file", "bare"):
        entries = Harm(victim)
    elif place == "entry":
        entries["harm"] = Harm(victim)
    else:
        tables(entries)[0]["harm"] = [Harm(victim)]
    if place == "bare":
        path.write_bytes(pickle.dumps(entries))
    else:
        torch.save(entries, path)
    refused(path)
    assert not victim.exists()
    torch.load(path, weights_only=False) if place == "entry" else None
    assert victim.exists() == (place == "entry"), "the file would have done harm"


def test_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    entries = copied("pisa_sr")
    key = next(iter(entries["state_dict_unet"]))
    entries["state_dict_unet"][key] = torch.zeros(1).expand(1 << 40)
    assert "claim more values than it holds" in refused(small("pisa_sr").write(tmp_path, entries))
    path = small("osediff").write(tmp_path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data + bytes(100_000))
    assert "unpacks to more than its own size" in refused(path)


def test_other_methods_pickles_are_named(tmp_path: Path) -> None:
    path = tmp_path / "osediff.pkl"
    cases = {
        "is S3Diff's": {"state_embeddings": {}, "w": torch.zeros(64)},
        "holds a whole UNet and VAE": {"unet": {}, "vae": {}},
        "is AdcSR's": {"module.body.1.weight": torch.zeros(1)},
        "is no LoRA that DFOSD knows: expected one of OSEDiff, .* found 1 entries, first x.": {"x": 1},
        "expected a dictionary with names, found list": [1],
    }
    for message, content in cases.items():
        torch.save(content, path)
        with pytest.raises(LoraFormatError, match=message):
            open_lora(path)


def test_plain_loras_and_other_files_are_refused_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"unet.down_blocks.0.resnets.0.conv1.lora_A.weight": torch.zeros(4, 8, 3, 3)}, path)
    assert "an ordinary LoRA without DFOSD's metadata" in refused(path)
    path.write_bytes(b"text")
    assert "is damaged or not a safetensors file" in refused(path)
    path.unlink()
    with pytest.raises(LoraFormatError, match="There is no LoRA file"):
        open_lora(path)
    with pytest.raises(LoraFormatError, match="is no LoRA: expected a file, or OMGSR-S's folder"):
        open_lora(tmp_path)


@pytest.mark.parametrize("name", PEERS)
def test_content_tells_the_method_whatever_the_name(name: str, tmp_path: Path) -> None:
    path = small(name).write(tmp_path)
    assert may_be_lora(path)
    other = path.rename(tmp_path / ("other" if path.is_dir() else "other.bin"))
    lora = open_lora(other)
    assert isinstance(lora, ImportedLora)
    assert lora.metadata.source == small(name).source
    assert len(lora.metadata.source_sha256) == 64
    if name == "hypir":
        other = tmp_path / "x.safetensors"
        safetensors.torch.save_file(small(name).entries, other)
        assert isinstance(open_lora(other), ImportedLora)
        with pytest.raises(LoraFormatError, match="an ordinary LoRA without DFOSD's metadata"):
            load_lora(other)  # ComfyUI and the WebUIs: they give no prompt yet


@pytest.mark.parametrize("name", PEERS)
def test_one_importer_knows_each_kind(name: str) -> None:
    content = Content(name="x", values=small(name).entries, sha256="")
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
    imported = open_lora(small("pisa_sr").write(tmp_path))
    assert isinstance(imported, ImportedLora)
    whole = imported.with_prompt(torch.zeros(1, 77, 64))
    again = open_lora(save_lora(tmp_path / "x.safetensors", whole))
    assert isinstance(again, DfosdLora)
    assert again == whole
    assert again.metadata.license.startswith("Apache-2.0")
