"""One run over several files in a thread of its own, so that a panel can show how far it is and stop it."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import DfosdError
from ..settings import UpscaleSettings
from .limits import Limits, without_folder
from .preview import Pair, make_pair

if TYPE_CHECKING:  # torch takes seconds to import; drawing a panel needs none of it
    from ..tiles.run import Progress, ProgressCallback

logger = logging.getLogger("dfosd")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for, besides the files. `base` and `lora` are entries of the panel's drop-downs."""

    settings: UpscaleSettings
    base: str = ""
    lora: str = ""


class UpscaleFile(Protocol):
    """Upscales one file into another."""

    def __call__(self, source: Path, target: Path, progress: ProgressCallback) -> tuple[int, int]:
        """Returns the result's (height, width). `target` appears whole or not at all.

        Calls `progress` after every tile and lets pass what it raises: so a run is stopped.
        Raises DfosdError with one line for the user.
        """
        ...


Engine = Callable[[Request], AbstractContextManager[UpscaleFile]]
"""Whoever has the networks. `with engine(request) as upscale_file:` surrounds a whole run."""


class StoppedError(Exception):
    """Raised out of the progress callback when somebody has pressed Stop."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a run is. A new one takes the old one's place, so it can be read from any thread."""

    state: str = "waiting"
    """"waiting" for another run, "loading" the networks, "running", "done", "stopped" or "failed"."""
    files: int
    """How many were asked for."""
    name: str = ""
    """The file being worked on."""
    progress: Progress | None = None
    """Of that file; None before its first tile."""
    pairs: tuple[Pair, ...] = ()
    """Finished files, in order."""
    problems: tuple[str, ...] = ()
    """One line for each file that failed, or for the whole run."""
    archive: Path | None = None
    """All results in a zip, where there are several and the run is over."""

    @property
    def is_over(self) -> bool:
        """Nothing will change any more."""
        return self.state in ("done", "stopped", "failed")

    @property
    def fraction(self) -> float:
        """0 to 1 over all files."""
        tiles = self.progress.done / self.progress.total if self.progress else 0.0
        return min((len(self.pairs) + len(self.problems) + tiles) / self.files, 1.0)


@dataclass(kw_only=True)
class Run:
    """Starts with `start`. `lock` is held while it works: one run at a time, whoever asks."""

    engine: Engine
    request: Request
    files: Sequence[Path]
    results: Path
    """Folder of the results, from where they are offered. Nothing in it is overwritten."""
    keep: Path | None
    """Folder that gets a copy of each result, under a name that is free there."""
    previews: Path
    limits: Limits
    lock: threading.Lock
    now: Snapshot = field(init=False)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _changed: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.now = Snapshot(files=len(self.files))
        self._thread = threading.Thread(target=self._work, name="dfosd-run", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it does within one tile. Files that are finished stay."""
        self._stop.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def snapshots(self, least_seconds: float = 0.25, most_seconds: float = 1.0) -> Iterator[Snapshot]:
        """A snapshot at each change, not more often and not more rarely than given; the last is the end."""
        while True:
            self._changed.clear()
            now = self.now
            yield now
            if now.is_over:
                return
            time.sleep(least_seconds)
            self._changed.wait(most_seconds - least_seconds)

    def _tell(self, **changes: object) -> None:
        self.now = replace(self.now, **changes)
        self._changed.set()

    def _work(self) -> None:
        try:
            while not self.lock.acquire(timeout=0.1):
                self._go_on()
            try:
                self._tell(state="loading")
                with self.engine(self.request) as upscale_file:
                    for path in self.files:
                        self._go_on()
                        self._one(path, upscale_file)
            finally:
                self.lock.release()
            self._end("done")
        except StoppedError:
            self._end("stopped")
        except Exception as error:
            self._tell(problems=(*self.now.problems, explain(error)))
            self._end("failed")

    def _go_on(self, *_: object) -> None:
        if self._stop.is_set():
            raise StoppedError

    def _one(self, path: Path, upscale_file: UpscaleFile) -> None:
        """One file. What is wrong with it is noted, and the next one has its turn."""

        def tick(progress: Progress) -> None:
            self._tell(progress=progress)
            self._go_on()

        self._tell(state="running", name=path.name, progress=None)
        target = free_name(self.results, f"{path.stem}_{self.request.settings.size_name}", ".png")
        started = time.perf_counter()
        try:
            self.limits.check(path, self.request.settings)
            upscale_file(path, target, tick)
            pair = make_pair(path, target, self.previews, time.perf_counter() - started)
            if self.keep:
                copy_whole(target, free_name(self.keep, target.stem, target.suffix))
        except (DfosdError, RuntimeError, MemoryError, OSError) as error:
            self._tell(problems=(*self.now.problems, explain(error, path)), progress=None)
        else:
            self._tell(pairs=(*self.now.pairs, pair), progress=None)

    def _end(self, state: str) -> None:
        archive = None
        if len(self.now.pairs) > 1:
            try:
                archive = write_zip(self.results, [pair.result for pair in self.now.pairs])
            except OSError as error:
                line = f"The zip file cannot be written: {error.strerror or error}. Take the images one by one."
                self._tell(problems=(*self.now.problems, line))
        self._tell(state=state, progress=None, archive=archive)


def explain(error: Exception, path: Path | None = None) -> str:
    """One line for the user. What nobody has foreseen goes to the log whole."""
    about = f"'{path.name}': " if path else ""
    if isinstance(error, DfosdError):
        text = without_folder(error, path) if path else str(error)
        return text if path and path.name in text else about + text
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"{about}Out of memory. Set smaller tiles (512) or a smaller scale."
    if isinstance(error, OSError):
        return f"{about}The result cannot be kept: {error.strerror or error}."
    logger.error("An unexpected error.", exc_info=error)
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{about}Something unexpected went wrong: {reason}. The log says more."


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """`stem` in `folder`, with a number behind it if that exists."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}{suffix}"
    return path


def copy_whole(source: Path, target: Path) -> None:
    """`target` appears whole or not at all."""
    unfinished = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def write_zip(folder: Path, files: Sequence[Path]) -> Path:
    """The files, flat, in a new zip in `folder`. Stored as they are: a PNG is compressed already."""
    path = free_name(folder, "dfosd", ".zip")
    unfinished = path.with_suffix(".part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.name)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
