"""LoRAs that other one-step methods trained on SD 2.1-base, recognised by what a file holds, never by its name.

An importer is one file here with `detect` and `read`, and one line in IMPORTERS. They are asked in order.
"""

from __future__ import annotations

from types import ModuleType

from . import hypir, omgsr, osediff, pisa_sr
from .content import Content, ImportedLora

IMPORTERS: tuple[ModuleType, ...] = (osediff, pisa_sr, hypir, omgsr)


def import_lora(content: Content) -> ImportedLora | None:
    """What the foreign file holds; None if no importer knows its kind.

    Raises LoraFormatError, one line, for a file of a known kind that is incomplete or damaged.
    """
    return next((importer.read(content) for importer in IMPORTERS if importer.detect(content)), None)
