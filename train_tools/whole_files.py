"""Files that are either the old ones or the whole new ones, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write `path` by way of `.NAME.part` beside it, in UTF-8."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
