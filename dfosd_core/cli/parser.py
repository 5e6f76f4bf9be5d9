"""argparse, but a wrong option gets one line that says where help is, not the list of all options above it."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from ..errors import one_line
from . import USAGE
from .streams import complain


class Parser(argparse.ArgumentParser):
    """Parsers of its commands are of this class too; a command's name and help then stand in its errors."""

    def error(self, message: str) -> NoReturn:
        complain(with_hint(one_line(message), self.prog))
        raise SystemExit(USAGE)

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # it has two overloads
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse does, but the command says what it does not know: it knows which options are near."""
        given, unknown = self.parse_known_args(None if args is None else list(args), namespace)
        if unknown:
            command = getattr(given, "parser", self)
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, command._option_string_actions, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            command.error(f"There is no option or argument {' '.join(unknown)}.{meant}")
        return given


def with_hint(message: str, prog: str) -> str:
    """The message, and which command explains the options."""
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} See '{prog} --help'."
