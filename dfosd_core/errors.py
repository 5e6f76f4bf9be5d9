"""What can go wrong for a user. A message is one line: what was expected, what was found, what to do.

Running out of memory is not wrapped: hosts have their own ways with it, and they look for torch's own type.
"""

from __future__ import annotations


def shown(name: str) -> str:
    """A name from somebody's file, as a message can hold it: short, in one line, printable."""
    return "".join(c if c.isprintable() else "?" for c in name[:120])


class DfosdError(Exception):
    """Parent of every error DFOSD raises on purpose."""


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
