"""Files are the old ones or the whole new ones, whatever happens in between."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dfosd_core import files
from dfosd_core.files import copy_whole, free_path, reason_of, write_text, write_whole

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), KeyboardInterrupt(), SystemExit(1)])
def test_what_goes_wrong_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with write_whole(path) as file:
            file.write(b"ne")
            file.flush()
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_file_that_fails_to_reach_the_disk_is_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder cannot be opened")
def test_content_reaches_the_disk_before_the_name_and_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    path, fsync = tmp_path / "a.txt", os.fsync

    def watch(handle: int) -> None:
        seen.append((Path(f"/proc/self/fd/{handle}").is_dir(), path.exists()))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", watch)
    write_text(path, "new")
    assert [exists for _, exists in seen] == [False, True]


def test_folder_that_cannot_be_synced_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""
    path = tmp_path / "a.txt"

    def fail_for_folders(_: int) -> None:
        if path.exists():
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", fail_for_folders)
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("links", [True, False])
def test_without_overwrite_what_came_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(files.os, "link", no_links)
    path = tmp_path / "a.txt"
    with write_whole(path, overwrite=False) as file:
        file.write(b"first")
    assert path.stat().st_nlink == 1
    (tmp_path / "b.txt").symlink_to("nowhere")
    for taken in (path, tmp_path / "b.txt"):
        with pytest.raises(FileExistsError), write_whole(taken, overwrite=False) as file:
            file.write(b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_planted_name_is_neither_followed_nor_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.secrets, "randbits", lambda _: 7)
    victim, planted = tmp_path / "victim", tmp_path / ".a.txt.7.part"
    victim.write_text("precious")
    planted.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", "new")
    assert victim.read_text() == "precious"
    assert names(tmp_path) == [".a.txt.7.part", "victim"]


_CONTAINER = """
import os, random, sys
from pathlib import Path
from dfosd_core.files import copy_as_new, write_whole
os.getpid = lambda: 1
random.seed(0)
own, shared = Path(sys.argv[1]), Path(sys.argv[2])
for k in range(60):
    with write_whole(shared / f"{own.stem}{k}.txt") as file:
        for _ in range(200):
            file.write(own.stem.encode() * 50)
    copy_as_new(own, shared / "kept")
"""


def test_two_containers_into_one_shared_folder_lose_and_swap_nothing(tmp_path: Path) -> None:
    """Both are process 1 there. Neither do two that keep a picture of the same name replace each other's."""
    (tmp_path / "kept").mkdir()
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    (tmp_path / "b" / "b.txt").rename(tmp_path / "b" / "a.txt")
    both = [tmp_path / "a" / "a.txt", tmp_path / "b" / "a.txt"]
    command = [sys.executable, "-c", _CONTAINER.replace("own.stem", "own.read_text()")]
    running = [subprocess.Popen([*command, str(own), str(tmp_path)], cwd=ROOT) for own in both]
    assert [process.wait(60) for process in running] == [0, 0]
    for name in "ab":
        for k in range(60):
            assert (tmp_path / f"{name}{k}.txt").read_text() == name * 10000
    kept = [path.read_text() for path in (tmp_path / "kept").iterdir()]
    assert sorted(kept) == ["a"] * 60 + ["b"] * 60
    assert not list(tmp_path.rglob("*.part"))


def test_writers_into_one_folder_do_not_meet(tmp_path: Path) -> None:
    """Nor do two of the same file: the last to end wins, whole."""
    with write_whole(tmp_path / "a.txt") as first, write_whole(tmp_path / "b.txt") as other:
        with write_whole(tmp_path / "a.txt") as second:
            first.write(b"first")
            second.write(b"second")
            other.write(b"other")
            assert len(names(tmp_path)) == 3
        assert (tmp_path / "a.txt").read_bytes() == b"second"
    assert (tmp_path / "a.txt").read_bytes() == b"first"
    assert (tmp_path / "b.txt").read_bytes() == b"other"
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 251}.txt"
    write_text(path, "ü")
    assert path.read_bytes() == "ü".encode()


def test_zip_can_be_written_whole(tmp_path: Path) -> None:
    with write_whole(tmp_path / "a.zip") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inside.txt", "text")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("inside.txt") == b"text"


def test_copy_gets_a_name_that_is_free(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "content")
    for expected in ("a_2.txt", "a_3.txt"):
        target = free_path(tmp_path, "a", ".txt")
        assert target.name == expected
        copy_whole(tmp_path / "a.txt", target)
        assert target.read_text() == "content"


def test_full_disk_is_called_so() -> None:
    assert reason_of(OSError(errno.ENOSPC, "No space left on device")) == "the disk is full"
    assert reason_of(PermissionError(errno.EACCES, "Permission denied")) == "Permission denied"
