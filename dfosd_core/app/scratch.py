"""The temporary folder of a page: uploads, results, previews. It cannot grow without end, and nothing stays long."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ImageFileError

KEEP_S = 4 * 3600
"""What is older goes: longer than a meal, shorter than a night."""
GRACE_S = 600
"""What is younger stays, even when there is no room: its owner is likely to be looking at it."""
LEAVE_FREE = 1_000_000_000
"""Bytes of the disk that are other programs'."""


@dataclass(kw_only=True)
class Scratch:
    """Limits on what lies in `folder`, all of which may be removed."""

    folder: Path
    most: int = 20_000_000_000
    """Bytes."""
    in_use: Callable[[], Iterable[Path]] = field(default=lambda: ())
    """Files, and folders with all that is in them, that are never removed."""
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def make_room(self, wanted: int = 0) -> None:
        """Remove what is old, and the oldest until `wanted` bytes have room. Raises ImageFileError if they have not."""
        with self._lock:
            now, kept = time.time(), self._kept()
            total = sum(size for _, size, _ in kept)
            removable = iter(self._removable(kept, now))
            for changed, size, path in removable:
                has_room = total + wanted <= self.most and self._free() >= wanted + LEAVE_FREE
                if has_room and now - changed < KEEP_S:
                    break
                _remove(path, self.folder)
                total -= size
            if total + wanted > self.most or self._free() < wanted + LEAVE_FREE:
                raise ImageFileError(
                    f"There is no room: at most {self.most / 1e9:.0f} GB of uploads and results are kept, and "
                    f"{LEAVE_FREE / 1e9:.0f} GB of the disk stay free. Fetch what is done and wait ten minutes."
                )

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _kept(self) -> list[tuple[float, int, Path]]:
        return sorted(_files(self.folder))

    def _removable(self, kept: list[tuple[float, int, Path]], now: float) -> Iterator[tuple[float, int, Path]]:
        used = set(self.in_use())
        for changed, size, path in kept:
            if now - changed > GRACE_S and not used & {path, *path.parents}:
                yield changed, size, path


def make_private(folder: Path) -> Path:
    """A new folder in `folder` whose name nobody can guess, so that who has it has been told."""
    private = folder / secrets.token_hex(16)
    private.mkdir(mode=0o700, parents=True)
    return private


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of the last change, bytes, path) of each; what goes meanwhile is left out."""
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            if not path.is_dir() or path.is_symlink():
                yield found.st_mtime, found.st_size, path


def _remove(path: Path, top: Path) -> None:
    with suppress(OSError):
        path.unlink()
        if top not in (path.parent, path.parent.parent):  # of a run or an upload, and now perhaps empty
            path.parent.rmdir()
