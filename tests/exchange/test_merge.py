"""`dfosd merge`: the merged base is the base with the LoRA in it, and nothing else has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.peers import PEERS, empty_prompt, sd_host
from support.tiny_models import ldm_tensors, random_lora, write_folder
from torch import Tensor

from dfosd_core.hosts.own import load_base
from dfosd_core.lora.file import ImportedLora, save_lora
from dfosd_core.lora.open import open_lora
from dfosd_core.models import load_models
from dfosd_core.networks.embedded import DEFAULT_BASE, DEFAULT_WEIGHTS
from dfosd_core.networks.reading import read_base
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings
from dfosd_core.tensor_files import read_header

Run = Callable[..., tuple[int, str, str]]


def raw(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """name -> format, shape and bytes, in the file's order."""
    header, blob = read_header(path), path.read_bytes()
    data = blob[8 + int.from_bytes(blob[:8], "little") :]
    return {
        name: (entry["dtype"], entry["shape"], data[entry["data_offsets"][0] : entry["data_offsets"][1]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def image(base: Path, lora: Path, strength: float) -> Tensor:
    host, found = load_models(ModelChoice(base=str(base), lora=str(lora), dtype="float32"), torch.device("cpu"))
    if strength == 0:  # then of all its parts
        found = replace(found, metadata=replace(found.metadata, parts={}))
    x = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(3))
    return upscale(x, host, found, UpscaleSettings(scale=1.0, color_fix="none", strength=strength))


@pytest.mark.parametrize("base", ["sd", "sd.safetensors"])
@pytest.mark.parametrize("name", PEERS)
def test_merged_base_gives_the_image_of_base_and_lora(
    name: str, base: str, models: Path, tmp_path: Path, run: Run
) -> None:
    lora, out = PEERS[name]().write(tmp_path), tmp_path / "out" / base
    code, told, err = run("merge", "--base", models / base, "--lora", lora, "-o", out)
    assert (code, err, told.count("\n")) == (0, "", 1)
    assert "an ordinary sampler makes nothing useful of it" in told
    expected = image(models / base, lora, 1.0)
    # Strength 0 leaves the base alone and still takes the LoRA's timestep, rule and prompt.
    torch.testing.assert_close(image(out, lora, 0.0), expected, rtol=0, atol=1e-5)
    assert (image(models / base, lora, 0.0) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("strength", [0.5, 1.5])
@pytest.mark.parametrize("name", ["osediff", "pisa_sr"])
def test_strength_is_the_settings_one(name: str, strength: float, models: Path, tmp_path: Path, run: Run) -> None:
    lora, out = PEERS[name]().write(tmp_path), tmp_path / "out"
    assert run("merge", "--base", models / "sd", "--lora", lora, "--strength", strength, "-o", out)[0] == 0
    torch.testing.assert_close(image(out, lora, 0.0), image(models / "sd", lora, strength), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_only_what_the_lora_changes_has_other_bytes(dtype: torch.dtype, models: Path, tmp_path: Path, run: Run) -> None:
    """OSEDiff's: pairs on the UNet and the VAE's encoder, conv_in in full with its bias."""
    lora = PEERS["osediff"]().write(tmp_path)
    tensors = safetensors.torch.load_file(models / "sd.safetensors")
    changed = {key: value.to(dtype) for key, value in tensors.items()}
    changed["model_ema.decay"] = torch.tensor(3, dtype=torch.int64)
    safetensors.torch.save_file(changed, tmp_path / "base.safetensors", {"modelspec.title": "base", "format": "pt"})
    out = tmp_path / "out.safetensors"
    assert run("merge", "--base", tmp_path / "base.safetensors", "--lora", lora, "-o", out)[0] == 0
    before, after = raw(tmp_path / "base.safetensors"), raw(out)
    assert list(before) == list(after), "the same names, in the same order"
    assert all(before[name][:2] == after[name][:2] for name in before), "the same formats and shapes"
    differing = {name for name in before if before[name] != after[name]}
    assert "model.diffusion_model.input_blocks.0.0.bias" in differing
    assert "first_stage_model.encoder.conv_in.weight" in differing
    assert not [name for name in differing if ".decoder." in name or name.startswith(("cond_stage", "model_ema"))]
    assert not [name for name in differing if ".norm" in name or ("bias" in name and "input_blocks.0" not in name)]
    # Merged in float32 and rounded once.
    host = load_base(tmp_path / "base.safetensors")
    found = open_lora(lora)
    assert isinstance(found, ImportedLora)
    with host.lora(found.with_prompt(empty_prompt()), 1.0):
        exact = {key: value.clone() for key, value in host.unet.state_dict().items()}
    rounded = read_base(out).unet.state_dict()
    for key, value in exact.items():
        torch.testing.assert_close(
            rounded[key], value.to(dtype).float(), rtol=0, atol=1e-6 if dtype == torch.float32 else 0
        )
    stated = read_header(out)["__metadata__"]
    assert stated["modelspec.title"] == "base"
    facts = json.loads(stated["dfosd.merged"])
    assert (facts["lora"], facts["timestep"], facts["prediction"]) == ("OSEDiff", 999, "eps-x0")
    assert (facts["license"], facts["strength"], facts["prompt"], len(facts["lora_sha256"])) == (
        "Apache-2.0",
        1,
        "",
        64,
    )


def test_folder_keeps_its_other_files_and_loses_unmerged_weights(models: Path, tmp_path: Path, run: Run) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(models / "sd", base)
    weights = safetensors.torch.load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    half = {key: value.half() for key, value in weights.items()}
    safetensors.torch.save_file(half, base / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    torch.save(weights, base / "unet" / "diffusion_pytorch_model.bin")
    (base / "unet" / "flax_model.msgpack").write_bytes(b"unmerged")
    (base / "v2-1_512.ckpt").write_bytes(b"unmerged")
    (base / "model_index.json").write_text("{}")
    lora = PEERS["osediff"]().write(tmp_path)
    assert run("merge", "--base", base, "--lora", lora, "-o", out)[0] == 0
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "dfosd_merged.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    encoder = "text_encoder/model.safetensors"
    assert (out / encoder).read_bytes() == (base / encoder).read_bytes()
    assert json.loads((out / "dfosd_merged.json").read_text())["timestep"] == 999
    one = safetensors.torch.load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    other = safetensors.torch.load_file(out / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert all((one[key] - other[key].float()).abs().max() < 2e-3 for key in one)
    assert any((one[key] - weights[key]).abs().max() > 1e-2 for key in one)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt"])
def test_pickled_base_becomes_safetensors(suffix: str, tmp_path: Path, run: Run) -> None:
    host = sd_host()
    lora = save_lora(tmp_path / "lora.safetensors", random_lora(host))
    if suffix == ".bin":
        base, out = write_folder(tmp_path / "base", host, {}, ".bin"), tmp_path / "out"
    else:
        base, out = tmp_path / "base.ckpt", tmp_path / "out.safetensors"
        torch.save({"state_dict": ldm_tensors(host), "epoch": 3}, base)
    assert run("merge", "--base", base, "--lora", lora, "-o", out)[0] == 0
    torch.testing.assert_close(image(out, lora, 0.0), image(base, lora, 1.0), rtol=0, atol=1e-5)


def test_old_names_of_the_vae_are_kept(models: Path, tmp_path: Path, run: Run) -> None:
    """SD 2.1-base's folder has the attention's names of before diffusers 0.18."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(models / "sd", base)
    file = base / "vae" / "diffusion_pytorch_model.safetensors"
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = safetensors.torch.load_file(file)
    for ours, theirs in new.items():
        tensors = {key.replace(f".{ours}.", f".{theirs}."): value for key, value in tensors.items()}
    safetensors.torch.save_file(tensors, file)
    lora = PEERS["omgsr"]().write(tmp_path)
    assert run("merge", "--base", base, "--lora", lora, "-o", out)[0] == 0
    after = safetensors.torch.load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    assert after.keys() == tensors.keys()
    name = "encoder.mid_block.attentions.0.query.weight"
    assert not torch.equal(after[name], tensors[name])
    torch.testing.assert_close(image(out, lora, 0.0), image(base, lora, 1.0), rtol=0, atol=1e-5)


def test_embedded_model_is_the_default(tmp_path: Path, run: Run) -> None:
    assert run("merge", "-o", tmp_path / "out")[0] == 0
    merged, plain = read_base(tmp_path / "out"), read_base(DEFAULT_WEIGHTS / DEFAULT_BASE)
    name = "mid_block.resnets.0.conv1.weight"
    assert not torch.equal(merged.unet.get_parameter(name), plain.unet.get_parameter(name))
    assert torch.equal(merged.unet.conv_in.weight, plain.unet.conv_in.weight)


def test_bad_input_is_refused_in_one_line(models: Path, tmp_path: Path, run: Run) -> None:
    lora = PEERS["omgsr"]().write(tmp_path)
    quantized = safetensors.torch.load_file(models / "sd.safetensors")
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    quantized[key] = quantized[key].to(torch.float8_e4m3fn)
    safetensors.torch.save_file(quantized, tmp_path / "q.safetensors")
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("--base", models / "sd", "--lora", lora, "-o", tmp_path / "there"), "exists and was not touched"),
        (("--base", models / "sd.safetensors", "--lora", lora, "-o", tmp_path / "x"), "expected a name ending in .saf"),
        (("--base", tmp_path / "no", "--lora", lora, "-o", tmp_path / "x"), "There is no base model"),
        (("--base", models / "sd", "--lora", tmp_path / "no", "-o", tmp_path / "x"), "There is no LoRA file"),
        (("--base", models / "sd", "-o", tmp_path / "x"), "was trained for"),
        (("--lora", lora, "-o", tmp_path / "x"), "was trained for"),
        (("--base", tmp_path / "q.safetensors", "--lora", lora, "-o", tmp_path / "x.safetensors"), "not quantized"),
        (("--base", models / "sd", "--lora", lora, "--strength", "nan", "-o", tmp_path / "x"), "strength"),
        (("--base", models / "sd", "--lora", lora, "-o", tmp_path / "file" / "x"), "cannot be made"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())
    for words, message in cases:
        code, out, err = run("merge", *words)
        assert code in (1, 2)
        assert out == ""
        assert len([line for line in err.splitlines() if line.startswith("dfosd: ")]) == 1
        assert message in err
        assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is left behind"


def test_failed_write_leaves_nothing(models: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dfosd_core import safetensors_io

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    lora = PEERS["omgsr"]().write(tmp_path)
    monkeypatch.setattr(safetensors_io, "tensor_bytes", full)
    for base in ("sd", "sd.safetensors"):
        code, _, err = run("merge", "--base", models / base, "--lora", lora, "-o", tmp_path / "out" / base)
        assert (code, err.count("\n")) == (1, 1)
        assert "cannot be written: the disk is full" in err
        assert list((tmp_path / "out").iterdir()) == []
