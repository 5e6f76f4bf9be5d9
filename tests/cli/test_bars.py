"""Progress on standard error: bars in a terminal, lines in a file, nothing when nobody looks."""

from __future__ import annotations

import os
import select
import struct
import sys
from io import StringIO

import pytest

from dfosd_core.cli import progress
from dfosd_core.cli.progress import Bars
from dfosd_core.tiles.run import Progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_count_images_and_tiles() -> None:
    screen = Terminal()
    bars = Bars(2, file=screen)
    for name in ("a.png", "b.png"):
        bars.show(name, Progress(phase="unet", done=3, total=9))
        bars.count()
    bars.close()
    shown = screen.getvalue()
    for part in ("a.png: restoring", "b.png: restoring", "3/9", "1/2 images", "2/2 images"):
        assert part in shown


@pytest.mark.parametrize("screen", [StringIO(), Terminal()])
def test_bars_stay_away_where_nobody_looks(screen: StringIO) -> None:
    bars = Bars(1, quiet=screen.isatty(), file=screen)
    bars.show("a.png", Progress(phase="unet", done=1, total=2))
    bars.close()
    assert screen.getvalue() == ""


def test_file_or_pipe_gets_a_line_of_an_image_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    screen = StringIO()
    bars, quiet = Bars(2, file=screen), Bars(2, quiet=True, file=screen)
    for second in range(0, 100, 10):
        clock[0] = float(second)
        for each in (bars, quiet):
            each.show("a\r.png", Progress(phase="decode", done=second, total=99))
    assert screen.getvalue() == "".join(f"a\\r.png: painting, {done} of 99 tiles\n" for done in (30, 60, 90))
    bars.say("a.png -> b.png", screen)
    clock[0] = 119.0
    bars.show("b.png", Progress(phase="unet", done=1, total=2))
    assert screen.getvalue().endswith("a.png -> b.png\n")


@pytest.mark.skipif(os.name != "posix", reason="there are no pseudo-terminals")
def test_bars_are_as_wide_as_the_terminal_also_after_it_was_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import termios

    ours, theirs = os.openpty()

    def line_at(columns: int, done: int) -> str:
        """The bar in a terminal of that width, without the spaces over what was longer before."""
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        bars.show("a.png", Progress(phase="decode", done=done, total=9))
        written = b""
        while select.select([ours], [], [], 0.05)[0]:
            written += os.read(ours, 4096)
        return written.decode().split("\r")[-1].rstrip()

    with os.fdopen(theirs, "w", encoding="utf-8") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        bars = Bars(1)
        for done, columns in enumerate((100, 60, 120), 1):
            line = line_at(columns, done)
            assert f"{done}/9" in line
            assert columns - 2 <= len(line) <= columns
        bars.close()
    os.close(ours)
