"""Names that cannot be shown and inputs that never end, in every command. More of it: test_odd_paths.py."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dfosd_core.cli.main import main
from dfosd_core.tensor_files import kind_of_file

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs such names, pipes and devices")


def picture(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (9, 7), "teal").save(path)
    return path


@pytest.mark.parametrize("where", ["folder", "file"])
def test_links_in_a_circle_are_one_line(run: Run, tmp_path: Path, where: str) -> None:
    source, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    if where == "folder":
        out.symlink_to("out")
    else:
        out.mkdir()
        (out / "a_x4.png").symlink_to("a_x4.png")
    code, _, err = run(source, "-o", f"{out}/")
    assert code == 1
    assert err.startswith("dfosd: ")
    assert err.count("\n") == 1
    assert ("exists" if where == "file" else "cannot be made") in err


@pytest.mark.parametrize("command", ["upscale", "info", "convert", "lora", "base", "models"])
def test_pipe_is_not_waited_for(run: Run, tmp_path: Path, photo: Path, command: str, capsys: Any) -> None:
    pipe = tmp_path / ("pipe.png" if command == "upscale" else "pipe.safetensors")
    os.mkfifo(pipe)
    if command == "models":
        assert kind_of_file(pipe) == "other"
        return
    if command == "upscale":
        code, _, err = run(pipe, "-o", tmp_path / "out")
    else:
        more = {"info": [pipe], "convert": [pipe, "-o", tmp_path / "x.safetensors"]}
        given = more.get(command) or [photo, "-o", tmp_path / "out", f"--{command}", pipe]
        code = main([command if command in more else "upscale", *map(str, given)])
        err = capsys.readouterr().err
    assert code in (1, 2)
    assert "Traceback" not in err
    assert "pipe" in err.strip().splitlines()[-1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_are_shown_harmlessly_in_any_encoding(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    for name in ("\u4e2d\xe9", "x\x1b[31m\ny", "bad\udcff"):
        picture(tmp_path / "in" / f"{name}.png")
    streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, raw in streams.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding))
    assert run(tmp_path / "in", tmp_path / "none\x1b.png", "-o", tmp_path / "out")[0] == 1
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = (streams[name].getvalue() for name in ("stdout", "stderr"))
    assert b"\x1b" not in out + err
    assert out.count(b"\n") == 3
    assert b"x\\x1b[31m\\ny.png -> " in out
    assert b"bad\\udcff.png -> " in out
    assert b"There is no file or folder '" in err
    assert len(list((tmp_path / "out").iterdir())) == 3
