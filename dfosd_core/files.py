"""Files that are either the old ones or the whole new ones, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import DfosdError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def write_whole(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes `path`'s place when the `with` block ends, having reached the disk.

    After an error or an interruption in the block nothing is left of it, and `path` is as it was. Two that write the
    same `path` at once do not meet, on whatever machines they run: the last to end wins, whole; without `overwrite`
    the first. Raises OSError as the file system does, and FileExistsError for a `path` that is there by then.
    """
    with _part_of(path) as (part, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows renames no open file
        if overwrite:
            part.replace(path)
        else:
            _rename_to_new(part, path)
        _sync_folder(path.parent)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed while they wrote one of `paths` have left of it.

    A process that still writes holds its file, so nothing is taken from it; where that cannot be told, all stays.
    """
    heads = {(path.parent, path.name[:50]) for path in paths}
    for folder in {folder for folder, _ in heads}:
        with suppress(OSError):
            for part in folder.glob(".*.part"):
                match = _PART.fullmatch(part.name)
                if match and (folder, match[1]) in heads and _is_abandoned(part):
                    part.unlink()


_PART = re.compile(r"\.(.+)\.\d+\.part", re.DOTALL)


@contextmanager
def _part_of(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside it, open and locked until the block or this process ends; removed then if it is still there."""
    while True:
        part = path.with_name(_part_name(path))
        with part.open("xb") as file:  # never one that is there: that may be another's, or a link to one
            try:
                if fcntl is not None:  # Windows lets nobody remove an open file
                    with suppress(OSError):  # some network file systems have no locks
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if part.exists():  # or it was taken for an abandoned one before it was locked
                    yield part, file
                    return
            finally:
                if fcntl is None:
                    file.close()
                part.unlink(missing_ok=True)


def _is_abandoned(part: Path) -> bool:
    if fcntl is None:
        return True
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """As `write_whole`, for a folder that is not there yet: yields an empty one, which is called `path` at the end."""
    part = path.with_name(_part_name(path))
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `path` whole, in UTF-8."""
    with write_whole(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # names of files that are no UTF-8 come back as they were


def copy_whole(source: Path, target: Path, *, overwrite: bool = True) -> None:
    """Copy the content of `source`, not its times and rights. As `write_whole`."""
    with source.open("rb") as original, write_whole(target, overwrite=overwrite) as copy:
        shutil.copyfileobj(original, copy)


def copy_as_new(source: Path, folder: Path) -> Path:
    """Copy `source` into `folder`, under its own name or with a number behind it; nothing there is replaced."""
    while True:
        target = free_path(folder, source.stem, source.suffix)
        with suppress(FileExistsError):  # another program has found the same name free
            copy_whole(source, target, overwrite=False)
            return target


def make_folder(folder: Path, error: type[DfosdError]) -> None:
    """Make it with its parents, where it is not there. Raises `error`, one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise error(f"The folder '{folder}' cannot be made: {reason.strerror or reason}.") from reason


def check_folder(folder: Path, error: type[DfosdError]) -> None:
    """Raises `error`, one line, if no file can be made in it. Only trying tells: rights are not all that counts."""
    try:
        with _part_of(folder / "dfosd"):
            pass
    except OSError as reason:
        raise error(f"Nothing can be written into the folder '{folder}': {reason_of(reason)}.") from reason


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """`stem` in `folder`, with a number behind it if that exists."""
    path, number = folder / f"{stem}{suffix}", 1
    while os.path.lexists(path):
        number += 1
        path = folder / f"{stem}_{number}{suffix}"
    return path


def sha256_of(*paths: Path) -> str:
    """SHA-256 of the files' bytes, one behind the other, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def stamp_of(path: Path) -> tuple[object, ...]:
    """What changes when the file, or one in the folder, does: names, times of the last change (ns) and sizes."""
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return str(path), *((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def reason_of(error: OSError) -> str:
    """What went wrong, without full stop, for the end of a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)


def what_failed(error: OSError) -> str:
    """A message for an error of the file system that nobody expected: the file, as far as it says, and the reason."""
    return str(DfosdError(f"'{error.filename}': {reason_of(error)}." if error.filename else f"{reason_of(error)}."))


@contextmanager
def folder_locked(folder: Path, busy: DfosdError) -> Iterator[None]:
    """Inside the `with` block no other process can do the same with this folder. Raises `busy` if one is.

    The system takes the lock away when the process ends, however it does. Where there are no such locks (Windows, some
    network file systems) nothing happens.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl and handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
            except OSError:
                pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _part_name(path: Path) -> str:
    """A name that nobody can foresee: processes in different containers may have the same number."""
    # Its beginning only: the file's own name may be as long as names can be.
    return f".{path.name[:50]}.{secrets.randbits(64)}.part"


def _rename_to_new(part: Path, path: Path) -> None:
    """Raises FileExistsError. A second name and not a rename: that would replace what came since it was looked for."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        part.rename(path)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the file itself is safe by now
            os.fsync(handle)  # the name, too, has to reach the disk
    finally:
        os.close(handle)
