"""`dfosd info` on converted and merged files, on ordinary LoRAs and on light decoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from support.decoders import taesd_tensors, vosr_decoder, write_vosr
from support.peers import OMGSR_FOLDERS, PEERS

Run = Callable[..., tuple[int, str, str]]


def lines(told: str) -> dict[str, str]:
    return {name: value.strip() for name, value in (line.strip().split("  ", 1) for line in told.splitlines()[1:])}


@pytest.mark.parametrize(
    ("name", "in_vae", "in_full"),
    [
        (
            "osediff",
            "encoder_conv_in, encoder_conv_out, encoder_down_blocks_0 (3), ",
            "unet_conv_in, unet_conv_in (bias)",
        ),
        ("pisa_sr", "none", "none"),
        ("omgsr", "encoder_conv_in, encoder_conv_out, encoder_down_blocks_0 (3), ", "none"),
    ],
)
def test_converted_lora_is_described_as_the_original(
    name: str, in_vae: str, in_full: str, tmp_path: Path, run: Run
) -> None:
    source, out = PEERS[name]().write(tmp_path), tmp_path / "out.safetensors"
    assert run("convert", source, "-o", out)[0] == 0
    original, converted = lines(run("info", source)[1]), lines(run("info", out)[1])
    assert original == converted
    assert converted["VAE layers"].startswith(in_vae)
    assert converted["replaced in full"] == in_full
    assert converted["prompt"] == "the empty text, by the base's text encoder"
    assert converted.get("parts") == ("pixel 4, semantic 4" if name == "pisa_sr" else None)


@pytest.mark.parametrize("base", ["sd", "sd.safetensors"])
def test_merged_base_says_what_is_in_it(base: str, models: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / base
    assert "merged LoRA" not in lines(run("info", models / base)[1])
    assert run("merge", "--base", models / base, "--lora", PEERS["hypir"]().write(tmp_path), "-o", out)[0] == 0
    told = lines(run("info", out)[1])["merged LoRA"]
    assert told.startswith("lora HYPIR, lora_sha256 ")
    assert told.endswith("license HYPIR's own, non-commercial, strength 1.0, timestep 200, prediction eps-x0")


def test_pefts_folder_is_said_to_be_convertible(tmp_path: Path, run: Run) -> None:
    folder = PEERS["omgsr"]().write(tmp_path) / OMGSR_FOLDERS[0]
    code, told, err = run("info", folder)
    assert (code, told, err.count("\n")) == (1, "", 1)
    assert f"'{folder.name}' is an ordinary LoRA without DFOSD's metadata" in err
    assert f"convert it: dfosd convert {folder.name} -o out.safetensors --timestep T --rule" in err
    (folder / "adapter_config.json").unlink()
    assert "is damaged: expected adapter_config.json and adapter_model.safetensors" in run("info", folder)[2]


def test_light_decoder_is_told_which_it_is(tmp_path: Path, run: Run) -> None:
    network, tensors = vosr_decoder(), taesd_tensors()
    save_file(tensors, tmp_path / "taesd_decoder.safetensors")
    cases = [
        (write_vosr(tmp_path / "sd21_lwdecoder.pth", network), "narrow decoder, as VOSR's", network.state_dict()),
        (tmp_path / "taesd_decoder.safetensors", "TAESD", tensors),
    ]
    for path, kind, state in cases:
        code, told, err = run("info", path)
        assert (code, err) == (0, "")
        assert told.splitlines()[0] == f"{path}: light decoder"
        facts = lines(told)
        assert (facts["kind"], facts["parameters"]) == (kind, f"{sum(value.numel() for value in state.values()):,}")
        assert facts["decodes"] == "latents of SD 1.x and 2.x: 4 channels, 1/8 size"
        assert facts["use"] == f"--decoder {path.name}, with any LoRA"


def test_a_picture_is_no_model_file(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    code, _, told = run("info", path)
    assert code == 1
    assert told.endswith(
        "'photo.png' is damaged or no model file: expected tensors, found: neither safetensors nor a file of "
        "torch.save. Get it again.\n"
    )
