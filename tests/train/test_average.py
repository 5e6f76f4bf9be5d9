"""Averaging LoRAs of one training."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny_models import random_lora, tiny_host

from dfosd_core.errors import ConfigError
from dfosd_core.lora.file import DfosdLora, load_lora, save_lora
from train_tools.average import average, main

HOST = tiny_host()


def lora(seed: int, rank: int = 4) -> DfosdLora:
    return random_lora(HOST, seed=seed, rank=rank)


def test_each_tensor_is_the_mean_in_the_firsts_format() -> None:
    loras = [lora(seed) for seed in (1, 2, 3)]
    found, given = average(loras).tensors(), [each.tensors() for each in loras]
    for key, value in found.items():
        if key.endswith(".alpha"):
            assert value == given[0][key]
        else:
            torch.testing.assert_close(value, sum(each[key] for each in given) / 3, rtol=1e-6, atol=1e-7)
    half = replace(loras[0], prompt_embeds=loras[0].prompt_embeds.half())
    assert average([half, *loras[1:]]).prompt_embeds.dtype == torch.float16


def test_others_are_refused_by_name() -> None:
    first = lora(1)
    with pytest.raises(ConfigError, match="found rank 4 and 3"):
        average([first, lora(2, rank=3)])
    with pytest.raises(ConfigError, match="found timestep 399 and 100"):
        average([first, replace(lora(2), metadata=replace(first.metadata, timestep=100))])
    with pytest.raises(ConfigError, match="same layers only"):
        average([first, replace(lora(2), pairs=dict(list(first.pairs.items())[1:]))])
    name, pair = next(iter(first.pairs.items()))
    with pytest.raises(ConfigError, match="different alphas"):
        average([first, replace(lora(2), pairs={**lora(2).pairs, name: replace(pair, alpha=1.0)})])


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(save_lora(tmp_path / f"{seed}.safetensors", lora(seed))) for seed in (1, 2)]
    out = tmp_path / "out.safetensors"

    def run(*loras: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["average", *loras, "-o", str(out)])
        code, said = main(), capsys.readouterr()
        return code, said.out + said.err

    assert run(*paths) == (0, f"{out}: the mean of 2 LoRAs\n")
    name = next(iter(lora(1).pairs))
    expected = (lora(1).pairs[name].up + lora(2).pairs[name].up) / 2
    torch.testing.assert_close(load_lora(out).pairs[name].up, expected)
    before = out.read_bytes()
    assert run(paths[0]) == (1, "average: expected two LoRAs or more, found one.\n")
    code, said = run(paths[0], str(tmp_path / "none.safetensors"))
    assert code == 1
    assert "There is no LoRA file" in said
    assert said.count("\n") == 1
    assert out.read_bytes() == before
