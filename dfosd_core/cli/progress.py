"""Bars on standard error: one over the images of a batch, one over the tiles of the image at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from ..upscale_file import PHASES

if TYPE_CHECKING:
    from ..tiles.run import Progress, ProgressCallback

_IMAGES = "{l_bar}{bar}| {n_fmt}/{total_fmt} images [{elapsed}<{remaining}]"
_TILES = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class Bars:
    """Bars for `images` images; none are drawn when `quiet`, or where there is no terminal."""

    def __init__(self, images: int, *, quiet: bool = False, file: TextIO | None = None) -> None:
        screen = file or sys.stderr
        hidden = quiet or not screen.isatty()
        self._bar = partial(tqdm, leave=False, file=screen, disable=hidden, dynamic_ncols=True)
        self._images = self._bar(total=images, desc="images", bar_format=_IMAGES, position=0) if images > 1 else None

    @contextmanager
    def image(self, name: str) -> Iterator[ProgressCallback]:
        """Draws the tile bar of one image; the image counts as done afterwards, also if it failed."""
        bar = self._bar(total=1, desc=name, bar_format=_TILES, position=int(self._images is not None))

        def show(progress: Progress) -> None:
            bar.set_description(f"{name}: {PHASES[progress.phase]}", refresh=False)
            bar.total, bar.n = progress.total, progress.done  # the total grows when tiles have to become smaller
            bar.refresh()

        try:
            yield show
        finally:
            bar.close()
            if self._images is not None:
                self._images.update()
                self._images.refresh()

    def say(self, line: str) -> None:
        """A line on standard output that leaves the bars whole."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bars away."""
        if self._images is not None:
            self._images.close()
