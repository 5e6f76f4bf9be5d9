"""Which WebUI this is, where what it offers under A1111's names does not tell."""

from __future__ import annotations

from importlib.util import find_spec

IS_SDNEXT = find_spec("modules.scripts_manager") is not None
"""Its checkpoint is a diffusers pipeline, and its `InputAccordion` lacks the script that lets a user tick it."""
