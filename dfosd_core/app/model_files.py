"""Which bases, LoRAs and decoders the app offers: the embedded ones, those named on the command line, a folder's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..lora.metadata import describe_origin
from ..lora.open import may_be_lora, open_lora
from ..networks.embedded import EMBEDDED_BASE, EMBEDDED_LORA
from ..networks.light_decoder import is_decoder
from ..settings import FULL_DECODER
from ..tensor_files import kind_of_file

Kind = Literal["base", "LoRA", "decoder"]


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A visitor of the page chooses by name among these; a path from outside is never opened."""

    folder: Path | None = None
    """diffusers folders and checkpoints are bases, light decoders decoders, what else `may_be_lora` is a LoRA."""
    given_base: Path | None = None
    """The first choice, where given."""
    given_lora: Path | None = None
    given_decoder: Path | None = None

    def bases(self) -> list[str]:
        """The drop-down's entries, the default first."""
        return list(self._offered("base"))

    def loras(self) -> list[str]:
        """The drop-down's entries, the default first."""
        return list(self._offered("LoRA"))

    def decoders(self) -> list[str]:
        """The drop-down's entries, the default first."""
        return list(self._offered("decoder"))

    def base(self, name: str) -> Path | None:
        """None: the embedded one. Raises ConfigError for a name that is not, or no longer, offered."""
        return self._chosen("base", name)

    def lora(self, name: str) -> Path | None:
        """As `base`."""
        return self._chosen("LoRA", name)

    def decoder(self, name: str) -> Path | None:
        """As `base`; None: the base's own."""
        return self._chosen("decoder", name)

    def about_lora(self, name: str) -> str:
        """Where an imported LoRA comes from, in a line; "" for one of DFOSD's. Raises DfosdError."""
        path = self.lora(name)
        return describe_origin(open_lora(path).metadata) if path else ""

    def _chosen(self, kind: Kind, name: str) -> Path | None:
        offered = self._offered(kind)
        if name not in offered:
            raise ConfigError(f"There is no {kind} '{name}' any more. Look for new files and choose another one.")
        return offered[name]

    def _offered(self, kind: Kind) -> dict[str, Path | None]:
        embedded, given = {
            "base": (EMBEDDED_BASE, self.given_base),
            "LoRA": (EMBEDDED_LORA, self.given_lora),
            "decoder": (FULL_DECODER, self.given_decoder),
        }[kind]
        offered: dict[str, Path | None] = {given.name: given} if given else {}
        offered[embedded] = None
        for path in sorted(self.folder.iterdir()) if self.folder and self.folder.is_dir() else []:
            if _kind_of(path) == kind:
                offered.setdefault(path.name, path)
        return offered


def _kind_of(path: Path) -> Kind | None:
    if kind_of_file(path) == "base model":
        return "base"
    if is_decoder(path):
        return "decoder"
    return "LoRA" if may_be_lora(path) else None
