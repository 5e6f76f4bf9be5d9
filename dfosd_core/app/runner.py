"""One run over several files in a thread of its own, so that a panel can show how far it is and stop it."""

from __future__ import annotations

import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DfosdError
from ..files import copy_as_new, free_path, reason_of, write_whole
from ..settings import FULL_DECODER, UpscaleSettings
from ..upscale_file import explain
from .limits import Limits, without_folder
from .notes import notes_taken, short_notes
from .preview import Pair, make_pair
from .scratch import make_private

if TYPE_CHECKING:  # torch takes seconds to import; drawing a panel needs none of it
    from ..tiles.run import Progress, ProgressCallback

_BYTES_PER_PIXEL = 8
"""Of a result and its second copy in the zip, more than most take."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for, besides the files. `base`, `lora` and `decoder` are entries of the panel's drop-downs."""

    settings: UpscaleSettings
    base: str = ""
    lora: str = ""
    decoder: str = FULL_DECODER


UpscaleFile = Callable[[Path, Path, "ProgressCallback"], tuple[int, int]]
"""(source, target, progress) -> the result's (height, width). `target` appears whole or not at all.

Calls `progress` after every tile and lets pass what it raises: so a run is stopped.
Raises DfosdError with one line for the user.
"""
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


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What all runs of a panel share. `lock` is held while one works: one run at a time, whoever asks."""

    engine: Engine
    results: Path
    """Each run has a folder of its own in it, which nobody can guess, and its results are offered from there."""
    previews: Path
    """As `results`; these are never offered."""
    keep: Path | None = None
    """Folder that gets a copy of each result, under a name that is free there."""
    limits: Limits = field(default_factory=Limits)
    lock: threading.Lock = field(default_factory=threading.Lock)
    decoding: threading.Lock = field(default_factory=threading.Lock)
    """Held while an upload is decoded to be shown: one at a time, or many large ones at once would fill the memory."""
    make_room: Callable[[int], None] = field(default=lambda _: None)
    """Called with the bytes that a result may take. Raises DfosdError if there is no room for them."""


@dataclass
class Run:
    """Starts with `start`."""

    workplace: Workplace
    request: Request
    files: Sequence[Path]
    now: Snapshot = field(init=False)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _changed: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.now = Snapshot(files=len(self.files))
        self.folders: list[Path] = []
        """Where its results and previews are."""
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

    def _update(self, **changes: object) -> None:
        self.now = replace(self.now, **changes)
        self._changed.set()

    def _work(self) -> None:
        try:
            while not self.workplace.lock.acquire(timeout=0.1):
                self._raise_if_stopped()
            try:
                self._update(state="loading")
                self.folders = [make_private(place) for place in (self.workplace.results, self.workplace.previews)]
                with self.workplace.engine(self.request) as upscale_file:
                    for path in self.files:
                        self._raise_if_stopped()
                        self._upscale(path, upscale_file)
            finally:
                self.workplace.lock.release()
            self._end("done")
        except StoppedError:
            self._end("stopped")
        except Exception as error:
            self._add_problem(explain(error))
            self._end("failed")

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise StoppedError

    def _add_problem(self, line: str) -> None:
        self._update(problems=(*self.now.problems, line), progress=None)

    def _upscale(self, path: Path, upscale_file: UpscaleFile) -> None:
        """One file. What is wrong with it is noted, and the next one has its turn."""

        def show(progress: Progress) -> None:
            self._update(progress=progress)
            self._raise_if_stopped()

        self._update(state="running", name=path.name, progress=None)
        results, previews = self.folders
        target = free_path(results, f"{path.stem}_{self.request.settings.size_name}", ".png")
        started = time.perf_counter()
        try:
            height, width = self.request.settings.output_size(*self.workplace.limits.check(path, self.request.settings))
            self.workplace.make_room(height * width * _BYTES_PER_PIXEL)
            with notes_taken() as lines:
                upscale_file(path, target, show)
            seconds, notes = time.perf_counter() - started, short_notes(lines, path, target)
            pair = make_pair(path, target, previews, seconds, notes)
            if self.workplace.keep:
                copy_as_new(target, self.workplace.keep)
        except (DfosdError, RuntimeError, MemoryError, OSError) as error:
            self._add_problem(without_folder(explain(error, path, target), path, target))
        else:
            self._update(pairs=(*self.now.pairs, pair), progress=None)

    def _end(self, state: str) -> None:
        archive = None
        if len(self.now.pairs) > 1:
            try:
                self.workplace.make_room(0)
                archive = free_path(self.folders[0], "dfosd", ".zip")
                with write_whole(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as flat:
                    for pair in self.now.pairs:  # stored as they are: a PNG is compressed already
                        flat.write(pair.result, pair.result.name)
            except (OSError, DfosdError) as error:
                archive, reason = None, reason_of(error) if isinstance(error, OSError) else "there is no room"
                self._add_problem(f"The zip file cannot be written: {reason}. Take the images one by one.")
        self._update(state=state, progress=None, archive=archive)
