"""The A1111 family as hosts: one file a program. A new one is a file here and a word in `PROGRAMS`."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from ...lora.metadata import LoraMetadata
from .shared import CheckpointHost

PROGRAMS = ("forge", "sdnext", "reforge", "a1111")
"""In the order they are asked: most offer what A1111 does, so it comes last and takes what is left."""


class Program(Protocol):
    """What each file of `PROGRAMS` offers."""

    def detect(self) -> bool:
        """Whether DFOSD runs inside this program. Loads nothing."""
        ...

    def open_checkpoint(self, lora: LoraMetadata) -> CheckpointHost:
        """The checkpoint that the user has chosen, loaded if it is not yet; `lora` is what it is for.

        Raises BaseModelMismatchError when it cannot be shared, or is not loaded because `lora` would not fit.
        """
        ...


def program() -> Program:
    """The WebUI around us. The files import its modules, so this works inside a WebUI only."""
    found = (cast("Program", import_module(f".{name}", __name__)) for name in PROGRAMS)
    return next(candidate for candidate in found if candidate.detect())
