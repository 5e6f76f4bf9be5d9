"""`dfosd info` on converted, exported and merged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.peers import PEERS

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


@pytest.mark.parametrize("base", ["sd", "sd.safetensors"])
def test_merged_base_says_what_is_in_it(base: str, models: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / base
    assert "merged LoRA" not in lines(run("info", models / base)[1])
    assert run("merge", "--base", models / base, "--lora", PEERS["hypir"]().write(tmp_path), "-o", out)[0] == 0
    told = lines(run("info", out)[1])["merged LoRA"]
    assert told.startswith("lora HYPIR, lora_sha256 ")
    assert told.endswith("license HYPIR's own, non-commercial, strength 1.0, timestep 200, prediction eps-x0")
