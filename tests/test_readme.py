"""The README's commands are commands that exist, with files that exist."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from dfosd_core.cli.main import make_parser
from dfosd_core.cli.options import settings_of
from dfosd_core.settings import UpscaleSettings
from train_tools.loop.trainer import LAST_LORA
from train_tools.settings.config_file import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(?:sh|bash)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
OURS = [line for line in COMMANDS if line.startswith(("dfosd ", "python3 run.py upscale", "python3 run.py info"))]


@pytest.mark.parametrize("command", OURS)
def test_command_parses(command: str) -> None:
    words = shlex.split(command)
    words = words[1:] if words[0] == "dfosd" else words[2:]
    arguments = make_parser().parse_args(words)
    assert arguments.command == words[0]
    stated = {flag[2:].replace("-", "_"): value for flag, value in itertools.pairwise(words) if flag.startswith("--")}
    found = vars(settings_of(arguments)) if arguments.command == "upscale" else {}
    for name in stated.keys() & found.keys():
        assert f"{found[name]}".removesuffix(".0") == stated[name]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python3 run.py train")])
def test_training_command_has_a_configuration_and_settings_that_exist(command: str) -> None:
    words = shlex.split(command)
    assert words[3:6:2] == ["--config", "--set"]
    load_config(ROOT / words[4], words[6:])


def test_trained_lora_is_upscaled_with_from_where_training_put_it() -> None:
    trained = next(line for line in COMMANDS if "small_cpu.yaml" in line)
    out = re.search(r"run\.out=(\S+)", trained)
    assert out is not None
    assert any(f"--lora {out[1]}/{LAST_LORA}" in line for line in OURS)


def test_first_command_upscales_a_shipped_photograph() -> None:
    words = shlex.split(OURS[0])
    assert words[:3] == ["python3", "run.py", "upscale"]
    assert (ROOT / words[3]).is_file()


def test_tests_have_a_command() -> None:
    assert "python3 run.py test" in COMMANDS
    assert "python3 run.py test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_settings_table_is_complete() -> None:
    rows = re.findall(r"^\| `--([\w-]+)` \| (.*?) \| (.*?) \|", README, re.MULTILINE)
    expected = []
    for setting in fields(UpscaleSettings):
        default = "automatic" if setting.default is None else f"{setting.default}".removesuffix(".0")
        default = "-" if setting.name.endswith("_edge") else default
        expected.append((setting.name.replace("_", "-"), default))
    assert [row[:2] for row in rows] == expected
