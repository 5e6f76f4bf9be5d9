"""How far a run is: a bar in a terminal, and a line now and then where the output goes into a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

LINE_EVERY_S = 30.0


class Progress:
    """Shown by the main process only. total, done: steps in all, and before this start."""

    def __init__(
        self,
        total: int,
        done: int,
        *,
        shown: bool,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.clock = total, done, clock
        self.stream = sys.stderr if stream is None else stream
        is_terminal = self.stream.isatty()
        self.shows_lines = shown and not is_terminal
        self.bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            disable=not (shown and is_terminal),
            file=self.stream,
            unit="step",
            dynamic_ncols=True,
        )
        self.began: tuple[int, float] = (done, clock())
        """From where steps are timed: the end of the first one, which waits for the workers to start."""
        self.is_first, self.line_at = True, self.began[1]
        self.values = ""

    def step(self) -> None:
        """One step more is done, with all that belongs to it: so the time left counts validations and saves, too."""
        self.done += 1
        self.bar.update()
        now = self.clock()
        if self.is_first:
            self.began, self.is_first = (self.done, now), False
        if self.shows_lines and (now >= self.line_at or self.done == self.total):
            self._write(self._line(now))
            self.line_at = now + LINE_EVERY_S

    def _line(self, now: float) -> str:
        """`Step 120 of 2000 (6 %), 0.82 s a step, 26 min left: generator 0.0123`; the first one has no rate yet."""
        text = f"Step {self.done} of {self.total} ({100 * self.done // self.total} %)"
        if timed := self.done - self.began[0]:
            per_step = (now - self.began[1]) / timed
            text += f", {per_step:.2f} s a step, {duration((self.total - self.done) * per_step)} left"
        return text + (f": {self.values}" if self.values else "")

    def show(self, values: str) -> None:
        """The newest losses, for the bar or the next line."""
        self.values = values
        self.bar.set_postfix_str(values)

    def say(self, text: str) -> None:
        """A line of its own, over the bar."""
        if self.shows_lines:
            self._write(text)
        elif not self.bar.disable:
            self.bar.write(text, file=self.stream)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """`40 s`, `26 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
