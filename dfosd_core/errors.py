"""What can go wrong for a user. A message is one line: what was expected, what was found, what to do.

Running out of memory is not wrapped: hosts have their own ways with it, and they look for torch's own type.
"""

from __future__ import annotations

from collections.abc import Sequence


def one_line(text: str, length: int = 300) -> str:
    """Words from somebody's file or of a file's name, fit for a message: one line of printable characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:length]


def printable(text: str) -> str:
    """Text with names from elsewhere, fit for a terminal: what would move its cursor is shown as `\\x1b` is here."""
    return "".join(c if c.isprintable() or c in _BLANKS else c.encode("unicode_escape").decode() for c in text)


def few(words: Sequence[str], most: int = 20) -> str:
    """Words for a message, with commas between them. Of a file that has thousands, those after `most` are counted."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


class DfosdError(Exception):
    """Parent of every error DFOSD raises on purpose. A name in it may hold any character, and still it is one line."""

    def __init__(self, message: str) -> None:
        # Not `one_line`, which takes blanks out of a name that a user has to recognise.
        super().__init__(printable(message))


_BLANKS = "\u00a0\u3000"
"""Blanks that stand in file names and that Python counts among what cannot be printed."""


class ConfigError(DfosdError):
    """A setting is outside its limits, or two settings contradict each other."""


class LoraFormatError(DfosdError):
    """The file is not a DFOSD LoRA, or it is damaged."""


class LoraMismatchError(DfosdError):
    """The LoRA's layers and the model's layers do not pair up completely."""


class BaseModelMismatchError(DfosdError):
    """The base model is not the one the LoRA was trained on, or not one DFOSD can use."""


class ImageFileError(DfosdError):
    """An image cannot be read, written or upscaled."""


class NumericError(DfosdError):
    """The networks gave infinities or NaN."""


class DiskSpaceError(DfosdError):
    """There is too little room for a temporary file."""
