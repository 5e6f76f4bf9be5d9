"""`dfosd app` before it serves: its flags, and what it says when it cannot."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from dfosd_core.app.limits import Limits
from dfosd_core.cli.arguments import make_parser
from dfosd_core.cli.main import main


def test_this_machine_only_is_the_default() -> None:
    assert make_parser().parse_args(["app"]).host == "127.0.0.1"


def test_help_states_the_limits_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["app", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"largest file taken (default: {Limits().file_mb})" in text
    assert f"largest result made (default: {Limits().megapixels})" in text


def test_documented_commands_and_flags_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "app.md").read_text("utf-8")
    commands = re.findall(r"^(?:dfosd|python3 run\.py) (app.*)$", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        make_parser().parse_args(shlex.split(command))
    documented = set(re.findall(r"`(--[\w-]+)`", "".join(re.findall(r"^\| `--.*", text, re.MULTILINE))))
    with pytest.raises(SystemExit):
        main(["app", "--help"])
    flags = set(re.findall(r"(--[\w-]+)", capsys.readouterr().out))
    assert documented == flags - {"--help"}


@pytest.mark.parametrize("flag", ["--base", "--lora", "--models"])
def test_missing_file_is_named(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", flag, str(tmp_path / "none")]) == 2
    assert f"dfosd: {flag} {tmp_path / 'none'}: there is no such file or folder." in capsys.readouterr().err


def test_missing_gradio_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in [name for name in sys.modules if name.startswith("dfosd_core.app.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    assert "dfosd: dfosd app needs Gradio. Install it: pip install 'dfosd[app]'." in capsys.readouterr().err


def test_out_that_cannot_be_a_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["app", "--out", str(tmp_path / "file" / "x"), "--device", "cpu"]) == 2
    assert f"The folder '{tmp_path / 'file' / 'x'}' cannot be made: Not a directory." in capsys.readouterr().err


def test_unusable_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--device", "nonsense"]) == 2
    assert "--device nonsense cannot be used" in capsys.readouterr().err
