"""Bars on standard error: one over the images of a batch, one over the tiles of the image at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from ..upscale_file import PHASES

if TYPE_CHECKING:
    from ..tiles.run import Progress

_IMAGES = "{l_bar}{bar}| {n_fmt}/{total_fmt} images [{elapsed}<{remaining}]"
_TILES = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class Bars:
    """Bars for `images` images; none are drawn when `quiet`, or where there is no terminal."""

    def __init__(self, images: int, *, quiet: bool = False, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._hidden = quiet or not self._file.isatty()
        self._images = self._bar(images, "images", _IMAGES, position=0) if images > 1 else None

    @contextmanager
    def image(self, name: str) -> Iterator[_TileBar]:
        """The tile bar of one image; the image counts as done afterwards, also if it failed."""
        bar = _TileBar(self._bar(1, name, _TILES, position=int(self._images is not None)), name)
        try:
            yield bar
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

    def _bar(self, total: int, name: str, form: str, position: int) -> tqdm[Any]:
        return tqdm(
            total=total,
            desc=name,
            bar_format=form,
            position=position,
            leave=False,
            file=self._file,
            disable=self._hidden,
            dynamic_ncols=True,
        )


class _TileBar:
    def __init__(self, bar: tqdm[Any], name: str) -> None:
        self._bar = bar
        self._name = name

    def __call__(self, progress: Progress) -> None:
        """The pipeline's callback. Its totals may grow, when tiles have to become smaller."""
        self._bar.set_description(f"{self._name}: {PHASES[progress.phase]}", refresh=False)
        self._bar.total, self._bar.n = progress.total, progress.done
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()
