"""What is said about images: a line each, in the order in which they were asked for, whoever has done them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .conveyor import Outcome
from .plan import Job
from .progress import Bars
from .stopping import held_back


class Reports:
    """Collects the outcomes of `jobs`. One that comes early waits until those before it have been said."""

    def __init__(self, jobs: Sequence[Job], bars: Bars, *, quiet: bool = False) -> None:
        self._jobs = jobs
        self._bars = bars
        self._quiet = quiet
        self._found: dict[Job, Outcome] = {}
        self._said = 0
        self._notes = 0

    def add(self, outcome: Outcome) -> None:
        """Count it, and say what can be said now. A second time for the same image changes nothing."""
        with held_back():  # or a stop between a line and its count would have it said again
            if outcome.job not in self._found:
                self._bars.count()
            self._found[outcome.job] = outcome
            while self._said < len(self._jobs) and self._jobs[self._said] in self._found:
                self._say(self._found[self._jobs[self._said]])
                self._said += 1

    def close(self) -> None:
        """After a stop: say what still waits."""
        for job in self._jobs[self._said :]:
            if job in self._found:
                self._say(self._found[job])
        self._said = len(self._jobs)

    def note(self, problem: str) -> None:
        """Say what failed beside the images."""
        self._notes += 1
        self._bars.say(f"dfosd: {problem}", sys.stderr)

    @property
    def all_done(self) -> bool:
        """Nothing has failed or is left."""
        return self.done == len(self._jobs) and not self._notes

    @property
    def done(self) -> int:
        """Images that have a result."""
        return sum(outcome.problem is None for outcome in self._found.values())

    @property
    def left(self) -> int:
        """Images of which nothing is known."""
        return len(self._jobs) - len(self._found)

    def _say(self, outcome: Outcome) -> None:
        if outcome.problem is not None:
            self._bars.say(f"dfosd: {outcome.problem}", sys.stderr)
        elif not self._quiet:
            height, width = outcome.size
            what = f"{width}x{height}, {outcome.seconds:.1f} s"
            self._bars.say(f"{outcome.job.source} -> {outcome.job.target} ({what})", sys.stdout)
