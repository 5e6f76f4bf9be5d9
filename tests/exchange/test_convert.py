"""`dfosd convert`: what is converted gives the same image as the original, and ordinary LoRAs are read in all names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.peers import PEERS, empty_prompt, sd_host
from support.tiny_models import random_lora
from torch import Tensor

from dfosd_core.errors import LoraFormatError
from dfosd_core.exchange.base_files import sd21_shapes
from dfosd_core.lora.file import ImportedLora, load_lora, read_lora, save_lora
from dfosd_core.lora.names import kohya_name, kohya_table
from dfosd_core.lora.open import open_lora
from dfosd_core.models import load_models
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings

ROOT = Path(__file__).parents[2]
USAGE = ("--timestep", 200, "--rule", "eps-x0")
Run = Callable[..., tuple[int, str, str]]


def image(base: Path, lora: Path) -> Tensor:
    choice = ModelChoice(base=str(base), lora=str(lora), dtype="float32")
    host, found = load_models(choice, torch.device("cpu"))
    x = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(3))
    return upscale(x, host, found, UpscaleSettings(scale=1.0, color_fix="none"))


@pytest.mark.parametrize("name", PEERS)
def test_converted_lora_gives_the_image_of_the_original(name: str, models: Path, tmp_path: Path, run: Run) -> None:
    source, out = PEERS[name]().write(tmp_path), tmp_path / "out" / "x.safetensors"
    code, told, err = run("convert", source, "-o", out)
    original, converted = open_lora(source), open_lora(out)
    assert isinstance(converted, ImportedLora)
    about = converted.metadata
    assert (code, err, told.count("\n")) == (0, "", 1)
    assert f"timestep {about.timestep}, rule {about.rule}, the prompt is the empty text" in told
    assert original == converted
    assert (about.source, len(about.source_sha256), bool(about.license)) == (PEERS[name]().source, 64, True)
    assert torch.equal(image(models / "sd", source), image(models / "sd", out))
    code, _, _ = run("convert", out, "-o", tmp_path / "again.safetensors")
    assert code == 0
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()


def test_lora_without_a_prompt_is_told_where_one_is_needed(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "x.safetensors"
    assert run("convert", PEERS["omgsr"]().write(tmp_path), "-o", out)[0] == 0
    with pytest.raises(LoraFormatError, match="'x.safetensors' holds no prompt: it was trained with the empty text"):
        load_lora(out)
    tensors = safetensors.torch.load_file(out)
    with safetensors.safe_open(out, "pt") as file:
        header = file.metadata()
    del header["dfosd.prompt"]
    safetensors.torch.save_file(tensors, out, header | {"modelspec.hash_sha256": ""})
    with pytest.raises(LoraFormatError, match="is damaged"):
        read_lora(out)
    del header["modelspec.hash_sha256"]
    safetensors.torch.save_file(tensors, out, header)
    with pytest.raises(LoraFormatError, match="lacks the tensor dfosd.prompt_embeds"):
        read_lora(out)


def test_prompt_embeds_become_part_of_the_file(tmp_path: Path, run: Run) -> None:
    source, out, prompt = PEERS["hypir"]().write(tmp_path), tmp_path / "x.safetensors", tmp_path / "p.safetensors"
    safetensors.torch.save_file({"prompt_embeds": empty_prompt()}, prompt)
    code, told, _ = run("convert", source, "-o", out, "--prompt-embeds", prompt)
    assert (code, told.endswith("with its prompt embedding.\n")) == (0, True)
    assert torch.equal(load_lora(out).prompt_embeds, empty_prompt())
    for bad, message in (
        ({"a": empty_prompt(), "b": empty_prompt()}, "expected one finite tensor of (1, N, 64), found 2"),
        (
            {"a": empty_prompt()[..., :32].contiguous()},
            "expected one finite tensor of (1, N, 64), found 1 ((1, 77, 32))",
        ),
        ({"a": empty_prompt() / 0}, "expected one finite tensor"),
    ):
        safetensors.torch.save_file(bad, prompt)
        code, _, err = run("convert", source, "-o", tmp_path / "y.safetensors", "--prompt-embeds", prompt)
        assert (code, err.count("\n")) == (1, 1)
        assert message in err
    assert (
        "has a prompt of its own" in run("convert", out, "-o", tmp_path / "y.safetensors", "--prompt-embeds", prompt)[2]
    )
    assert (
        "There is no file"
        in run("convert", source, "-o", tmp_path / "y.safetensors", "--prompt-embeds", tmp_path / "no")[2]
    )


# --- Ordinary LoRAs: the same pairs in every spelling ---

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def pairs(rank: int = 4) -> dict[str, tuple[Tensor, Tensor]]:
    """diffusers layer name -> (down, up), on some layers of the tiny UNet."""
    generator, host = torch.Generator().manual_seed(2), sd_host()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in kohya_table(host.unet).values():
        if name.endswith(("to_q", "to_k", "to_out.0", "conv1")):
            weight = host.unet.get_parameter(f"{name}.weight")
            down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.2
            found[name] = down, torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator) * 0.2
    return found


def kohya(found: dict[str, tuple[Tensor, Tensor]], alpha: float | None = None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in found.items():
        tensors[f"{kohya_name(name)}.lora_down.weight"], tensors[f"{kohya_name(name)}.lora_up.weight"] = down, up
        if alpha is not None:
            tensors[f"{kohya_name(name)}.alpha"] = torch.tensor(alpha)
    return tensors


def spelled(found: dict[str, tuple[Tensor, Tensor]], name: str) -> dict[str, Tensor]:
    """`name` has LAYER and HALF in it, with PEFT's or diffusers' word for the half."""
    words = ("A", "B") if "HALF." in name and "lora_HALF" in name else ("down", "up")
    return {
        name.replace("LAYER", layer).replace("HALF", word): value
        for layer, halves in found.items()
        for word, value in zip(words, halves, strict=True)
    }


SPELLINGS = {
    "peft": "LAYER.lora_HALF.weight",
    "peft_unet": "unet.LAYER.lora_HALF.weight",
    "peft_adapter": "unet.LAYER.lora_HALF.mine.weight",
    "peft_model": "base_model.model.LAYER.lora_HALF.weight",
    "diffusers": "unet.LAYER.lora.HALF.weight",
    "diffusers_layer": "unet.LAYER.lora_linear_layer.HALF.weight",
}


@pytest.mark.parametrize("spelling", ["kohya", *SPELLINGS])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_spelling_gives_the_same_lora(spelling: str, suffix: str, models: Path, tmp_path: Path, run: Run) -> None:
    found, path, out = pairs(), tmp_path / f"mine{suffix}", tmp_path / "out.safetensors"
    tensors = kohya(found, 4.0) if spelling == "kohya" else spelled(found, SPELLINGS[spelling])
    save = torch.save if suffix == ".pt" else safetensors.torch.save_file
    save(tensors, path)
    code, told, err = run("convert", path, "-o", out, *USAGE, "--base", models / "sd")
    assert code == 0, err
    assert (err != "") == (spelling != "kohya"), "no alpha: it says so"
    assert "timestep 200, rule eps-x0" in told
    lora = open_lora(out)
    assert isinstance(lora, ImportedLora)
    assert lora.pairs.keys() == {kohya_name(name) for name in found}
    for name, (down, up) in found.items():
        pair = lora.pairs[kohya_name(name)]
        assert torch.equal(pair.down, down)
        assert torch.equal(pair.up, up)
        assert pair.alpha == 4.0
    about = lora.metadata
    assert (about.timestep, about.rule, about.rank, about.source) == (200, "eps-x0", 4, "mine")
    assert image(models / "sd", out).isfinite().all()


def test_old_diffusers_processor_names(models: Path, tmp_path: Path, run: Run) -> None:
    found = {name: halves for name, halves in pairs().items() if ".attn" in name}
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in found.items():
        block, layer = name.removesuffix(".0").rsplit(".", 1)
        tensors[f"unet.{block}.processor.{layer}_lora.down.weight"] = down
        tensors[f"unet.{block}.processor.{layer}_lora.up.weight"] = up
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    out = tmp_path / "out.safetensors"
    assert run("convert", tmp_path / "x.safetensors", "-o", out, *USAGE, "--base", models / "sd")[0] == 0
    assert open_lora(out).pairs.keys() == {kohya_name(name) for name in found}


@pytest.mark.parametrize("where", ["folder", "file_in_folder", "header"])
def test_alpha_comes_from_pefts_settings(where: str, models: Path, tmp_path: Path, run: Run) -> None:
    tensors, folder = spelled(pairs(), SPELLINGS["peft_model"]), tmp_path / "adapter"
    settings = {"r": 4, "lora_alpha": 8, "use_rslora": False, "alpha_pattern": {}}
    folder.mkdir()
    header = {}
    if where == "header":
        header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    else:
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", header)
    source, out = folder if where == "folder" else folder / "adapter_model.safetensors", tmp_path / "out.safetensors"
    code, _, err = run("convert", source, "-o", out, *USAGE, "--base", models / "sd")
    assert (code, err) == (0, "")
    assert {pair.alpha for pair in open_lora(out).pairs.values()} == {8.0}


def test_rank_stabilised_alpha(models: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text('{"lora_alpha": 8, "use_rslora": true}')
    safetensors.torch.save_file(spelled(pairs(), SPELLINGS["peft"]), tmp_path / "a" / "adapter_model.safetensors")
    out = tmp_path / "out.safetensors"
    assert run("convert", tmp_path / "a", "-o", out, *USAGE, "--base", models / "sd")[0] == 0
    assert {pair.scaling for pair in open_lora(out).pairs.values()} == {8 / 4**0.5}


def test_vae_encoder_layers_come_along(models: Path, tmp_path: Path, run: Run) -> None:
    source = open_lora(PEERS["osediff"]().write(tmp_path))
    tensors = {key: value for key, value in source.tensors().items() if ".set_" not in key}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    out = tmp_path / "out.safetensors"
    assert run("convert", tmp_path / "x.safetensors", "-o", out, *USAGE, "--base", models / "sd")[0] == 0
    lora = open_lora(out)
    assert lora.pairs.keys() == source.pairs.keys()
    assert any(name.startswith("lora_vae_encoder_") for name in lora.pairs)


@pytest.mark.parametrize("part", ["diff", "diff_b"])
def test_difference_of_a_layer_in_full_changes_what_it_names(part: str, models: Path, tmp_path: Path, run: Run) -> None:
    layer = sd_host().unet.get_submodule("conv_out")
    value = layer.weight if part == "diff" else layer.bias
    added = torch.rand(value.shape, generator=torch.Generator().manual_seed(5))
    safetensors.torch.save_file(kohya(pairs(), 4.0) | {f"lora_unet_conv_out.{part}": added}, tmp_path / "x.safetensors")
    out = tmp_path / "out.safetensors"
    words = ("convert", tmp_path / "x.safetensors", "-o", out, *USAGE, "--base", models / "sd")
    assert run(*words)[0] == 0
    lora = open_lora(out)
    changed, other = (lora.set_weights, lora.set_biases) if part == "diff" else (lora.set_biases, lora.set_weights)
    assert (list(changed), dict(other)) == (["lora_unet_conv_out"], {})
    torch.testing.assert_close(changed["lora_unet_conv_out"], value.detach() + added, rtol=0, atol=1e-6)


def test_without_a_base_the_layers_are_those_of_sd21(tmp_path: Path, run: Run) -> None:
    layout, shapes = sd21_shapes()
    assert (layout.context_dim, layout.block_out_channels) == (1024, (320, 640, 1280, 1280))
    layers = {name: shape for (name, kind), shape in shapes.items() if kind == "weight" and "attn" in name}
    assert len(layers) == 128
    names = sorted(name for name in layers if name.startswith("lora_unet"))[::9]

    def tensors(context: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name in names:
            outputs, inputs = layers[name]
            inputs = context if inputs == 1024 else inputs
            found[f"{name}.lora_down.weight"] = torch.zeros(1, inputs)
            found[f"{name}.lora_up.weight"] = torch.zeros(outputs, 1)
            found[f"{name}.alpha"] = torch.tensor(1.0)
        return found

    path, out = tmp_path / "x.safetensors", tmp_path / "out.safetensors"
    safetensors.torch.save_file(tensors(1024), path)
    assert run("convert", path, "-o", out, *USAGE)[0] == 0
    assert open_lora(out).metadata.base_layout == layout
    safetensors.torch.save_file(tensors(768), path)
    code, _, err = run("convert", path, "-o", tmp_path / "no.safetensors", *USAGE)
    assert (code, err.count("\n")) == (1, 1)
    assert "'x.safetensors' is no LoRA of SD 2.1-base. The LoRA does not fit this base: of 15 changes" in err
    assert "with wrong shape: lora_unet" in err
    assert not (tmp_path / "no.safetensors").exists()


def refused(found: dict[str, Tensor], tmp_path: Path, models: Path, run: Run, *words: Any) -> str:
    path = tmp_path / "x.safetensors"
    path.unlink(missing_ok=True)
    safetensors.torch.save_file({key: value.clone() for key, value in found.items()}, path)
    code, out, err = run(
        "convert", path, "-o", tmp_path / "out.safetensors", *(words or USAGE), "--base", models / "sd"
    )
    lines = [line for line in err.splitlines() if line.startswith("dfosd: ")]
    assert code in (1, 2)
    assert (out, len(lines)) == ("", 1)
    assert not (tmp_path / "out.safetensors").exists()
    assert not list(tmp_path.glob(".*part"))
    return lines[0]


def test_bad_ordinary_loras_are_refused(models: Path, tmp_path: Path, run: Run) -> None:
    good = kohya(pairs(), 4.0)
    down = next(key for key in good if key.endswith("down.weight"))
    layer = down.removesuffix(".lora_down.weight")
    up = f"{layer}.lora_up.weight"
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 4)}
    cases: list[tuple[dict[str, Tensor], str]] = [
        (good | text, "changes the text encoder too (1 of"),
        (good | {"text_encoder.text_model.x.lora_A.weight": torch.zeros(4, 4)}, "changes the text encoder too"),
        ({key: value for key, value in good.items() if key != down}, "expected both halves of a LoRA on"),
        (good | {f"{layer}.dora_scale": torch.zeros(4)}, "1 of"),
        (good | {f"{layer}.alpha": torch.zeros(3)}, "expected one number as alpha"),
        (good | {down: torch.full_like(good[down], float("nan"))}, "expected finite values, found others in"),
        (good | {down: good[down][:2].contiguous()}, "expected a low-rank pair on"),
        (good | {down: good[down][:, :3].contiguous()}, "with wrong shape"),
        (good | {key.replace(layer, "lora_unet_new"): good[key] for key in (down, up)}, "no such layer: lora_unet_new"),
        (good | {f"{layer}.diff": torch.zeros(3, 3)}, "expected"),
        (good | {down: good[down].int()}, "expected float32, float16 or bfloat16"),
    ]
    for tensors, message in cases:
        assert message in refused(tensors, tmp_path, models, run)


def test_bad_flags_are_refused(models: Path, tmp_path: Path, run: Run) -> None:
    good = kohya(pairs(), 4.0)
    for words, message in (
        (("--timestep", 200), "--rule is missing"),
        (("--rule", "eps-x0"), "--timestep is missing"),
        (("--timestep", 1000, "--rule", "eps-x0"), "--timestep: expected 0 to 999, found 1000"),
        (("--timestep", 1, "--rule", "x0"), "--rule: expected eps-x0 or residual, found 'x0'"),
    ):
        assert message in refused(good, tmp_path, models, run, *words)
    peer, out = PEERS["hypir"]().write(tmp_path), tmp_path / "o.safetensors"
    assert "'HYPIR_sd2.pth' is HYPIR's and says how it is used" in run("convert", peer, "-o", out, *USAGE)[2]
    assert "needs no base" in run("convert", peer, "-o", out, "--base", models / "sd")[2]
    assert "exists and was not touched" in run("convert", peer, "-o", peer)[2]
    assert "There is no LoRA file" in run("convert", tmp_path / "no.safetensors", "-o", out)[2]
    assert (
        "There is no base model"
        in run("convert", tmp_path / "x.safetensors", "-o", out, *USAGE, "--base", tmp_path / "no")[2]
    )
    (tmp_path / "file").write_text("")
    code, _, err = run("convert", peer, "-o", tmp_path / "file" / "x.safetensors")
    assert (code, err.count("\n")) == (1, 1)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "folder"])
def test_refusal_of_an_ordinary_lora_tells_how_to_convert_it(kind: str, tmp_path: Path, run: Run) -> None:
    path, tensors = tmp_path / "mine.safetensors", kohya(pairs())
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, path)
    elif kind == "pickle":
        path = tmp_path / "mine.pth"
        torch.save(tensors, path)
    else:
        path = tmp_path / "mine"
        path.mkdir()
        safetensors.torch.save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    for words in (
        (("info", path), ("convert", path, "-o", tmp_path / "o.safetensors"))
        if kind != "folder"
        else (("convert", path, "-o", "o.safetensors"),)
    ):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (1, 1)
        assert f"convert it: dfosd convert {path.name} -o out.safetensors --timestep T --rule eps-x0|residual" in err


def test_program_in_train_tools_does_the_same_from_any_folder(tmp_path: Path) -> None:
    lora = random_lora(sd_host())
    save_lora(tmp_path / "a.safetensors", lora)
    program = [sys.executable, str(ROOT / "train_tools" / "convert.py"), "a.safetensors", "-o", "b.safetensors"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    assert load_lora(tmp_path / "b.safetensors") == lora


@pytest.mark.parametrize("command", [("convert",), ("export", "--kohya")])
def test_output_is_called_what_lists_look_for(command: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    code, _, err = run(*command, PEERS["hypir"]().write(tmp_path), "-o", tmp_path / "out.pkl")
    assert code == 2
    assert "out.pkl: expected a name ending in .safetensors" in err
    assert not (tmp_path / "out.pkl").exists()
