"""Files are the old ones or the whole new ones, whatever happens in between."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import pytest

from dfosd_core import files
from dfosd_core.files import copy_whole, free_path, reason_of, write_text, write_whole


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


def test_what_is_raised_before_the_rename_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), write_whole(path, refuse) as file:
        file.write(b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


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
