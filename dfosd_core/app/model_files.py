"""Which bases and LoRAs the app offers: the embedded ones, those named on the command line, a folder's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..networks.embedded import EMBEDDED_BASE, EMBEDDED_LORA
from ..tensor_files import kind_of_file


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A visitor of the page chooses by name among these; a path from outside is never opened."""

    folder: Path | None = None
    """diffusers folders and checkpoints are bases, other `.safetensors` are LoRAs."""
    given_base: Path | None = None
    """The first choice, where given."""
    given_lora: Path | None = None

    def bases(self) -> list[str]:
        """The drop-down's entries, the default first."""
        return list(self._bases())

    def loras(self) -> list[str]:
        """The drop-down's entries, the default first."""
        return list(self._loras())

    def base(self, name: str) -> Path | None:
        """None: the embedded one. Raises ConfigError for a name that is not, or no longer, offered."""
        return _chosen("base", name, self._bases())

    def lora(self, name: str) -> Path | None:
        """As `base`."""
        return _chosen("LoRA", name, self._loras())

    def _bases(self) -> dict[str, Path | None]:
        return _named(EMBEDDED_BASE, self.given_base, (path for path in self._found() if _is_base(path)))

    def _loras(self) -> dict[str, Path | None]:
        found = (path for path in self._found() if path.suffix == ".safetensors" and not _is_base(path))
        return _named(EMBEDDED_LORA, self.given_lora, found)

    def _found(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder and self.folder.is_dir() else []


def _is_base(path: Path) -> bool:
    return kind_of_file(path) == "base model"


def _named(embedded: str, given: Path | None, found: Iterable[Path]) -> dict[str, Path | None]:
    named: dict[str, Path | None] = {given.name: given} if given else {}
    named[embedded] = None
    for path in found:
        named.setdefault(path.name, path)
    return named


def _chosen(kind: str, name: str, offered: dict[str, Path | None]) -> Path | None:
    if name not in offered:
        raise ConfigError(f"There is no {kind} '{name}' any more. Look for new files and choose another one.")
    return offered[name]
