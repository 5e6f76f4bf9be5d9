"""SD.Next, whose checkpoint is a diffusers pipeline that DFOSD does not share: it needs a base of its own there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NoReturn

from ...errors import BaseModelMismatchError
from ...lora.metadata import LoraMetadata
from .shared import NOT_SHARED


def detect() -> bool:
    """Only SD.Next keeps its scripts there."""
    return find_spec("modules.scripts_manager") is not None


def open_checkpoint(lora: LoraMetadata) -> NoReturn:
    """Raises BaseModelMismatchError, before asking for the checkpoint would load it."""
    raise BaseModelMismatchError(NOT_SHARED)
