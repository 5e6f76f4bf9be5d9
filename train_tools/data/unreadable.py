"""Files of a set that cannot be read: a few are passed over and named, more end the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dfosd_core.errors import ConfigError

SHARE = 0.01
"""Of a set that may be unreadable; of a small set one file."""


class Unreadable:
    """Those found so far in one process. total: files of the set."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self.reasons: dict[str, str] = {}
        """File -> what is wrong with it, one line."""
        self.news: dict[str, str] = {}
        """Those of `reasons` that nobody has been told of."""

    def add(self, file: str, reason: str) -> None:
        """Raises ConfigError, which names this file, where it is one too many."""
        if file in self.reasons:
            return
        self.reasons[file] = self.news[file] = reason
        self.refuse()

    def refuse(self, files: Iterable[str] = ()) -> None:
        """Raises ConfigError where too many have been found, or all of `files`, each time it is asked.

        Whoever draws again after an unreadable file asks first: a process that prepares crops ahead would else draw for
        ever after its set has been given up.
        """
        names = set(files)
        if len(self.reasons) > self.allowed or (names and names <= self.reasons.keys()):
            last = next(reversed(self.reasons.values()))
            raise ConfigError(
                f"{len(self.reasons)} of {self.total} files in '{self.folder}' cannot be read, {self.allowed} may be. "
                f"The last one: {last}"
            )

    def take_news(self) -> dict[str, str]:
        """What has been found since the last call."""
        news, self.news = self.news, {}
        return news

    @property
    def allowed(self) -> int:
        """How many are passed over."""
        return min(max(1, int(self.total * SHARE)), self.total - 1)


class FilesOfASet:
    """What sources of crops have in common: a folder, and which of its `total` files cannot be read."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.unreadable = folder, Unreadable(folder, total)

    def take_unreadable(self) -> dict[str, str]:
        """Files found unreadable since the last call, each with the reason."""
        return self.unreadable.take_news()

    def refuse_unreadable(self, found: Mapping[str, str]) -> None:
        """Count what other processes have found. Raises ConfigError for too many."""
        for file, reason in found.items():
            if self.folder in Path(file).parents:
                self.unreadable.add(file, reason)
