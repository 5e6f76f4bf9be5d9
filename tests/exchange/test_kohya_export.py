"""`dfosd export --kohya`: what other programs' loaders take, what it lacks, and the way back."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.peers import PEERS, sd_host
from support.tiny_models import random_lora
from torch import Tensor

from dfosd_core.exchange.base_files import BaseFiles, WeightFile, sd21_shapes
from dfosd_core.exchange.export import export
from dfosd_core.lora.changes import LoraPair
from dfosd_core.lora.file import ImportedLora, load_lora, save_lora, write_tensors
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.open import open_lora
from dfosd_core.tensor_files import TensorFile, read_header

Run = Callable[..., tuple[int, str, str]]
COMFYUI_PATH = os.environ.get("COMFYUI_PATH", "")
NOT_SET = "COMFYUI_PATH is not set: it names a folder with `ComfyUI` and its environment `venv`"
CONV_IN = "lora_unet_conv_in"


def with_base(name: str, models: Path) -> tuple[Any, ...]:
    return ("--base", models / "sd") if name == "osediff" else ()


@pytest.mark.parametrize("name", PEERS)
def test_file_holds_only_what_every_loader_takes(name: str, models: Path, tmp_path: Path, run: Run) -> None:
    source, out = PEERS[name]().write(tmp_path), tmp_path / "out.safetensors"
    code, told, err = run("export", "--kohya", source, "-o", out, *with_base(name, models))
    assert (code, told.count("\n")) == (0, 1)
    tensors, lora = safetensors.torch.load_file(out), open_lora(source)
    layers: dict[str, set[str]] = {}
    for key in tensors:
        layer, part = key.split(".", 1)
        layers.setdefault(layer, set()).add(part)
    pair = {"lora_down.weight", "lora_up.weight", "alpha"}
    in_full = {"diff", "diff_b"} if name == "osediff" else pair
    assert all(parts == (in_full if layer == CONV_IN else pair) for layer, parts in layers.items())
    assert layers.keys() == {layer for layer in lora.pairs if layer.startswith("lora_unet_")}
    in_vae = sum(layer.startswith("lora_vae_") for layer in lora.pairs)
    losses = [line for line in err.splitlines() if line.startswith("dfosd: ")]
    assert len(losses) == (1 if in_vae else 0)
    assert not in_vae or f"without {in_vae} layers of the VAE's encoder" in losses[0]
    header = read_header(out)["__metadata__"]
    assert header["dfosd.source"] == lora.metadata.source
    assert header["ss_network_module"] == "networks.lora"


@pytest.mark.parametrize("flags", [True, False])
@pytest.mark.parametrize("name", PEERS)
def test_way_back_gives_the_same_tensors(name: str, flags: bool, models: Path, tmp_path: Path, run: Run) -> None:
    """By the metadata that is left in the file, or by flags after other programs have dropped it."""
    source, out, back = PEERS[name]().write(tmp_path), tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    base = with_base(name, models)
    assert run("export", "--kohya", source, "-o", out, *base)[0] == 0
    before = open_lora(source)
    words: tuple[Any, ...] = base
    if flags:
        safetensors.torch.save_file(safetensors.torch.load_file(out), out)
        about = before.metadata
        words = ("--timestep", about.timestep, "--rule", about.rule, "--base", models / "sd")
    code, _, err = run("convert", out, "-o", back, *words)
    assert (code, err) == (0, "")
    after = open_lora(back)
    assert isinstance(after, ImportedLora)
    expected = {key: value for key, value in before.tensors().items() if not key.startswith("lora_vae_")}
    found = after.tensors()
    conv_in = {key for key in {*expected, *found} if key.startswith(CONV_IN)} if name == "osediff" else set()
    assert found.keys() - conv_in == expected.keys() - conv_in
    assert all(torch.equal(found[key], expected[key]) for key in found.keys() - conv_in)
    if conv_in:  # replaced weight and pair are one full weight now
        pair = before.pairs[CONV_IN]
        whole = before.set_weights[CONV_IN] + ((pair.up.flatten(1) @ pair.down.flatten(1)) * pair.scaling).view(
            -1, 4, 3, 3
        )
        torch.testing.assert_close(after.set_weights[CONV_IN], whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.set_biases[CONV_IN], before.set_biases[CONV_IN], rtol=0, atol=1e-6)
    if not flags:
        assert after.metadata == before.metadata


def test_learned_prompt_is_missed_on_the_way_back(tmp_path: Path, run: Run) -> None:
    lora = random_lora(sd_host())
    source, out = save_lora(tmp_path / "x.safetensors", lora), tmp_path / "out.safetensors"
    code, _, err = run("export", "--kohya", source, "-o", out)
    assert (code, err.count("\n")) == (0, 1)
    assert "without the prompt embedding: other programs condition on the text that you type" in err
    code, _, err = run("convert", out, "-o", tmp_path / "y.safetensors")
    assert (code, "exported without its prompt embedding. Give --prompt-embeds" in err) == (2, True)
    safetensors.torch.save_file({"p": lora.prompt_embeds}, tmp_path / "p.safetensors")
    again = ("convert", out, "-o", tmp_path / "y.safetensors", "--prompt-embeds", tmp_path / "p.safetensors")
    assert run(*again)[0] == 0
    assert load_lora(tmp_path / "y.safetensors") == lora


def test_exported_lora_is_no_dfosd_lora(tmp_path: Path, run: Run) -> None:
    source, out = PEERS["pisa_sr"]().write(tmp_path), tmp_path / "out.safetensors"
    assert run("export", "--kohya", source, "-o", out)[0] == 0
    assert "convert it: dfosd convert out.safetensors" in run("info", out)[2]


def test_bad_input_is_refused_in_one_line(models: Path, tmp_path: Path, run: Run) -> None:
    osediff, hypir = PEERS["osediff"]().write(tmp_path), PEERS["hypir"]().write(tmp_path)
    out = tmp_path / "out.safetensors"
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((osediff, "-o", out), "replaces weights in full (lora_unet_conv_in)"),
        ((osediff, "-o", out, "--base", tmp_path), "has no unet/config.json"),
        ((hypir, "-o", out, "--base", models / "sd"), "replaces no weights in full, so no base is needed"),
        ((hypir, "-o", hypir), "exists and was not touched"),
        ((tmp_path / "no.safetensors", "-o", out), "There is no LoRA file"),
    ]
    for words, message in cases:
        code, told, err = run("export", "--kohya", *words)
        assert code in (1, 2)
        assert (told, len([line for line in err.splitlines() if line.startswith("dfosd: ")])) == ("", 1)
        assert message in err
        assert not out.exists()
    assert run("export", hypir, "-o", out)[0] == 2, "--kohya says which kind"


# --- Full size, in ComfyUI itself ---


def full_size() -> tuple[ImportedLora, BaseFiles]:
    """Rank 1 on every layer of UNet and VAE encoder, conv_in in full; and a base with that layer's values only."""
    layout, shapes = sd21_shapes()
    generator = torch.Generator().manual_seed(4)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    pairs = {
        layer: LoraPair(down=random(1, *shape[1:]), up=random(shape[0], 1, *[1] * (len(shape) - 2)), alpha=0.5)
        for (layer, kind), shape in shapes.items()
        if kind == "weight" and (layer.startswith("lora_unet_") or "encoder" in layer)
    }
    replaced = {kind: random(*shapes[CONV_IN, kind]) for kind in ("weight", "bias")}
    own = {f"{CONV_IN}.{kind}": random(*shapes[CONV_IN, kind]) for kind in ("weight", "bias")}
    tensors = {f"{layer}.{kind}": torch.empty(shape, device="meta") for (layer, kind), shape in shapes.items()} | own
    names = {place: ".".join(place) for place in shapes}
    file = WeightFile(path=Path("base"), content=TensorFile(tensors, {}), names=names)
    lora = ImportedLora(
        pairs=pairs,
        metadata=LoraMetadata(base_layout=layout, timestep=999, rank=1, lora_alpha=0.5),
        set_weights={CONV_IN: replaced["weight"]},
        set_biases={CONV_IN: replaced["bias"]},
    )
    return lora, BaseFiles(path=Path("base"), layout=layout, files=[file])


def test_full_size_header_names_stable_diffusion_2() -> None:
    lora, base = full_size()
    header = export(lora, base).header
    assert header["ss_v2"] == "True", "A1111 lists a LoRA by it"
    assert header["modelspec.architecture"] == "stable-diffusion-v2-512/lora"
    assert "dfosd.format_version" not in header


def test_a1111_knows_every_layers_name() -> None:
    """Its own patterns for diffusers' names of a UNet, and its layers of pairs and of full changes."""
    lora, base = full_size()
    patterns = [
        r"lora_unet_conv_(in|out)",
        r"lora_unet_time_embedding_linear_\d+",
        r"lora_unet_(down|up)_blocks_\d+_(attentions|resnets)_\d+_.+",
        r"lora_unet_mid_block_(attentions|resnets)_\d+_.+",
        r"lora_unet_down_blocks_\d+_downsamplers_0_conv",
        r"lora_unet_up_blocks_\d+_upsamplers_0_conv",
    ]
    parts = r"\.(lora_(up|down)\.weight|alpha|diff|diff_b)"
    wrong = [key for key in export(lora, base).tensors if not re.fullmatch(f"({'|'.join(patterns)}){parts}", key)]
    assert wrong == []


@pytest.mark.skipif(not COMFYUI_PATH, reason=NOT_SET)
def test_comfyuis_own_loader_leaves_no_key_unloaded(tmp_path: Path) -> None:
    lora, base = full_size()
    found = export(lora, base)
    write_tensors(tmp_path / "x.safetensors", found.tensors, found.header)
    own, theirs = base.files[0].content.tensors, "diffusion_model.input_blocks.0.0"
    weights = {f"{theirs}.{kind}": own[f"{CONV_IN}.{kind}"] for kind in ("weight", "bias")}
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    host = Path(COMFYUI_PATH).absolute()
    program = [host / "venv/bin/python", Path(__file__).with_name("comfy_loads.py"), host / "ComfyUI"]
    done = subprocess.run(
        [*program, tmp_path / "x.safetensors", tmp_path / "weights.safetensors"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    layers = {key.split(".")[0] for key in found.tensors}
    assert (result["unloaded"], result["unknown"]) == ([], [])
    assert (len(layers), result["patched"]) == (282, 283), "and conv_in's bias"
    pair = lora.pairs[CONV_IN]
    change = (pair.up.flatten(1) @ pair.down.flatten(1) * pair.scaling).view(320, 4, 3, 3)
    expected = {"weight": lora.set_weights[CONV_IN] + change, "bias": lora.set_biases[CONV_IN]}
    for kind, value in expected.items():
        shown = value.flatten()[:: max(1, value.numel() // 50)]
        torch.testing.assert_close(torch.tensor(result["values"][f"{theirs}.{kind}"]), shown, rtol=0, atol=1e-5)
