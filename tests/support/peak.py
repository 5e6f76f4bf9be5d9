"""How much memory a piece of work takes, as the operating system counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

_LEVER, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Peak:
    """The process's resident memory above what it had at the start, files mapped into memory included; in bytes."""

    def __init__(self) -> None:
        try:
            _LEVER.write_text("5")  # forget the peak so far
        except OSError as error:
            pytest.skip(f"this system does not let a process measure its peak of memory ({error})")
        self.start = self._read("VmRSS:")

    def above(self) -> int:
        """Of the highest moment since the start."""
        return self._read("VmHWM:") - self.start

    @staticmethod
    def _read(name: str) -> int:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024
