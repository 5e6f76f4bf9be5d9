"""No path and no stream ends a batch: a line for what cannot be done, and the rest is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dfosd_core import files
from dfosd_core.errors import printable

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such files or streams")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good picture at the beginning and one at the end."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        Image.new("RGB", (3, 2)).save(folder / name)
    return folder


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*_x4.png"))


def check_rest_is_done(run: Run, folder: Path, *words: str) -> str:
    """`words` are in a line each; the two good pictures have a result. Returns what was said."""
    code, out, err = run(folder, "-o", folder.with_name("out"))
    assert (code, out.count("\n")) == (1, 2), err
    assert {"a_x4.png", "z_x4.png"} <= set(results(folder.with_name("out")))
    assert err.count("\n") == len(words), err
    for word in words:
        assert any(word in line for line in err.splitlines()), (word, err)
    return err


@posix
@pytest.mark.parametrize("name", ["n" * 251 + ".png", "\u5b57" * 83 + ".png"])
def test_name_that_leaves_no_room_for_the_results(run: Run, folder: Path, name: str) -> None:
    Image.new("RGB", (3, 2)).save(folder / name)
    check_rest_is_done(run, folder, "its result cannot be called")


@posix
def test_links_that_lead_nowhere_or_in_a_circle(run: Run, folder: Path) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "deep").mkdir()
    (folder / "deep" / "up").symlink_to(folder)
    check_rest_is_done(run, folder, "loop.png' cannot be read: Too many levels", "There is no file")


@posix
def test_pipes_and_devices_are_not_waited_for(run: Run, folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    check_rest_is_done(run, folder, "pipe.png' is no file: a pipe", "zero.png' is no file: a device")
    code, _, err = run(folder / "pipe.png")
    assert (code, err) == (1, f"dfosd: '{folder / 'pipe.png'}' is no file: a pipe. Name an image file.\n")


@posix
def test_folder_that_may_not_be_read(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "closed").mkdir()
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:  # the tests may be run by root, whom no right stops
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    check_rest_is_done(run, folder, "closed' cannot be read: Permission denied.")


def test_target_that_takes_no_file_is_noticed_before_anything_is_computed(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def read_only(path: Path, mode: str = "r", **rest: Any) -> Any:
        if "x" in mode:
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, mode, **rest)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr("dfosd_core.cli.work.run_task", lambda *_: pytest.fail("something was computed"))
    out = folder.with_name("out")
    code, said, err = run(folder, "-o", out)
    assert (code, said) == (1, "")
    assert err == (
        f"dfosd: Nothing can be written into the folder '{out}': Read-only file system. "
        f"Not done: '{folder / 'a.png'}', '{folder / 'z.png'}'.\n"
    )


@posix
def test_control_characters_in_a_name_are_escaped(run: Run, folder: Path) -> None:
    Image.new("RGB", (3, 2)).save(folder / "b\x1b[31m\n.png")
    (folder / "c\x07.png").write_bytes(b"none")
    code, out, err = run(folder, "-o", folder.with_name("out"))
    assert code == 1
    assert "b\\x1b[31m\\n.png -> " in out
    assert err.count("\n") == 1
    assert err.startswith(f"dfosd: '{folder}/c\\x07.png' is damaged")
    assert all(character.isprintable() for character in (out + err).replace("\n", ""))


def test_escaped_is_printable_and_leaves_names_alone() -> None:
    assert printable("\u6771\u4eac\u3000\u99c5 caf\u00e9") == "\u6771\u4eac\u3000\u99c5 caf\u00e9"
    assert printable("a\x1b\n\udcff\u202e") == "a\\x1b\\n\\udcff\\u202e"


@contextmanager
def command(folder: Path, model: list[str], *redirected: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command on `folder` in a shell that redirects its streams."""
    words = [sys.executable, "-m", "dfosd_core.cli", "upscale", str(folder), "-o", str(folder.with_name("out")), *model]
    shell = ["sh", "-c", f'"$@" {" ".join(redirected)}', "sh", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with subprocess.Popen(shell, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process


@posix
@pytest.mark.parametrize("redirected", [">&-", "2>&- >&-", ">/dev/full", "2>/dev/full >/dev/full"])
def test_closed_and_full_streams(folder: Path, model: list[str], redirected: str) -> None:
    if "full" in redirected and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (folder / "bad.png").write_bytes(b"none")
    with command(folder, model, redirected) as process:
        err = process.communicate(timeout=120)[1]
    assert (process.returncode, results(folder.with_name("out"))) == (1, ["a_x4.png", "z_x4.png"])
    assert err.count(b"\n") == (0 if "2>" in redirected else 1), err


@posix
def test_reader_that_goes_away_ends_nothing(folder: Path, model: list[str]) -> None:
    with command(folder, model) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert (process.returncode, results(folder.with_name("out"))) == (0, ["a_x4.png", "z_x4.png"])


@posix
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_a_stream_cannot_print(folder: Path, model: list[str], encoding: str) -> None:
    (folder / "a.png").rename(folder / "a\u5b57.png")
    (folder / "b\u5b57.png").write_bytes(b"none")
    with command(folder, model, PYTHONIOENCODING=encoding) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"a\\u5b57.png -> " in out
    assert b"b\\u5b57.png' is damaged" in err
    assert out.count(b"\n") == 2


@posix
def test_what_a_killed_process_has_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    target, other = tmp_path / "a_x4.png", tmp_path / ".mine.123.part"
    other.write_bytes(b"")
    code = (
        "import sys, pathlib; from dfosd_core.files import write_whole\n"
        "with write_whole(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); print('written', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    files.remove_abandoned([target])
    assert len(list(tmp_path.iterdir())) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_abandoned([tmp_path / "b_x4.png"])
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_abandoned([target])
    assert list(tmp_path.iterdir()) == [other]
