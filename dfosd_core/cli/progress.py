"""Bars on standard error: one over the images of a batch, one over the tiles of each image at work.

Into a file or pipe, where bars would be a mess, a line now and then.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from ..errors import printable
from ..upscale_file import PHASES
from .streams import say

if TYPE_CHECKING:
    from ..tiles.run import Progress

_IMAGES = "{l_bar}{bar}| {n_fmt}/{total_fmt} images [{elapsed}<{remaining}]"
_TILES = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
EVERY_S = 30.0
"""Without a terminal, a line at most so often."""


class Bars:
    """Bars for `images` images. Without a terminal, lines about images that take long; when `quiet`, nothing."""

    def __init__(self, images: int, *, quiet: bool = False, file: TextIO | None = None) -> None:
        screen = file or sys.stderr
        hidden = quiet or not screen.isatty()
        self._lines = screen if hidden and not quiet else None
        self._spoken = time.monotonic()
        self._bar = partial(tqdm, leave=False, file=screen, disable=hidden, dynamic_ncols=True)
        self._images = self._bar(total=images, desc="images", bar_format=_IMAGES, position=0) if images > 1 else None
        self._tiles: dict[int, tuple[str, tqdm[Any]]] = {}

    def show(self, name: str, progress: Progress, worker: int = 0) -> None:
        """Tiles of the image `name`, on which the process number `worker` is."""
        if self._lines is not None and time.monotonic() - self._spoken >= EVERY_S:
            tiles = f"{progress.done} of {progress.total} tiles"
            self.say(f"{name}: {PHASES[progress.phase]}, {tiles}", self._lines)
        shown, bar = self._tiles.get(worker, ("", None))
        if bar is None or shown != name:
            self.hide(worker)
            bar = self._bar(total=1, bar_format=_TILES, position=worker + int(self._images is not None))
            self._tiles[worker] = name, bar
        bar.set_description(f"{printable(name)}: {PHASES[progress.phase]}", refresh=False)
        bar.total, bar.n = progress.total, progress.done  # the total grows when tiles have to become smaller
        bar.refresh()

    def hide(self, worker: int = 0) -> None:
        """Take this process's bar of tiles away."""
        if worker in self._tiles:
            self._tiles.pop(worker)[1].close()

    def count(self) -> None:
        """One more image is done, or has failed."""
        if self._images is not None:
            self._images.update()
            self._images.refresh()

    def say(self, line: str, file: TextIO) -> None:
        """A line that leaves the bars whole."""
        self._spoken = time.monotonic()
        say(line, file)

    def close(self) -> None:
        """Take the bars away."""
        for worker in list(self._tiles):
            self.hide(worker)
        if self._images is not None:
            self._images.close()
