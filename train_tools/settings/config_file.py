"""YAML files and `--set` become a `TrainConfig` here, and a `TrainConfig` YAML again.

    python -m train_tools.settings.config_file --reference     the tables of docs/training_settings.md

jsonargparse checks and converts each value to its field's type; what a field allows is `config.py`'s.
"""

from __future__ import annotations

import argparse
import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser

from dfosd_core.errors import ConfigError, one_line

from .config import TrainConfig, plain_config, plain_values
from .resume_policy import RULES

SECTIONS: dict[str, type] = get_type_hints(TrainConfig)
TYPES: dict[str, Any] = {
    f"{section}.{field}": hint for section, cls in SECTIONS.items() for field, hint in get_type_hints(cls).items()
}
"""Dotted name of each setting -> its type."""
Tree = dict[str, dict[str, Any]]


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file; each override `section.name=value` wins over it. Relative paths mean the current directory.

    Raises ConfigError, one line with the setting, what was expected and what was found.
    """
    tree: Tree = {section: {} for section in SECTIONS}
    for name, value in _read(path):
        _put(tree, name, value, str(path))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected SECTION.NAME=VALUE, found '{override}'.")
        _put(tree, name.strip(), parse_yaml(text, f"--set {override}"), "--set")
    try:
        return TrainConfig(**{section: cls(**tree[section]) for section, cls in SECTIONS.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}{' with --set' if overrides else ''}: {error}") from error


def dump_config(config: TrainConfig) -> str:
    """Every setting as YAML that `load_config` reads back to an equal configuration."""
    return yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=True, width=10_000)


def reference() -> str:
    """Every setting as Markdown, one table a section."""
    tables: list[str] = []
    for section, cls in SECTIONS.items():
        docs = {part.args[1]: part.description or "" for part in parse_from_object(cls).params}
        rows = [f"### `{section}`", "", "| name | type | default | meaning | at resume |", "|---|---|---|---|---|"]
        for field, default in plain_values(cls()).items():
            name = f"{section}.{field}"
            meaning = " ".join(docs[field].split()).replace("|", "\\|")
            rows.append(f"| `{field}` | {_words(TYPES[name])} | {_shown(default)} | {meaning} | {RULES[name]} |")
        tables.append("\n".join(rows) + "\n")
    return "\n".join(tables)


def _shown(default: Any) -> str:
    """A default as one writes it in YAML."""
    text = yaml.safe_dump(default, default_flow_style=True).removesuffix("...\n").strip()
    return f"`{text if isinstance(default, list) else str(default)}`" if default is not None else "null"


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """Each dotted name of the file with its value."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The configuration '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration '{path}' cannot be read: expected UTF-8 text.") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, Mapping):
        found = "an empty file" if tree is None else _found(tree)
        raise ConfigError(f"{path}: expected sections ({', '.join(SECTIONS)}), found {found}.")
    for section, values in cast("Mapping[str, Any]", tree).items():
        if section not in SECTIONS:
            raise ConfigError(f"{path}: {one_line(section, 80)}: no such section.{_meant(section)}")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"{path}: {section}: expected settings below it, found {_found(values)}.")
        for field, value in cast("Mapping[str, Any]", values or {}).items():
            yield f"{section}.{field}", value


def _put(tree: Tree, name: str, value: Any, source: str) -> None:
    """Set one value. Each is parsed alone: quicker than all at once, and an error is about it."""
    if name not in TYPES:
        raise ConfigError(f"{source}: {one_line(name, 80)}: no such setting.{_meant(name)}")
    section, field = name.split(".")
    hint = TYPES[name]
    wrong = ConfigError(f"{source}: {name}: expected {_words(hint)}, found {_found(value)}.")
    if value is None and NoneType not in get_args(hint):
        raise wrong
    if type(value) is int and {str, Path} & {hint, *get_args(hint)}:
        value = str(value)  # a folder may be called 2024
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        tree[section][field] = parser.parse_object({"value": value})["value"]
    except (ArgumentError, TypeError, ValueError) as error:
        raise wrong from error


def _meant(name: str) -> str:
    last = name.rpartition(".")[2]
    near = [known for known in TYPES if known.partition(".")[2] == last]
    near = near or difflib.get_close_matches(name, set(TYPES) | set(SECTIONS) - {name}, n=1, cutoff=0.7)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _words(hint: Any) -> str:
    """A type in words."""
    arguments = get_args(hint)
    if NoneType in arguments:
        return f"{_words(arguments[0])} or null"
    if get_origin(hint) is list:
        return f"a list ([a, b]) of {_words(arguments[0]).removeprefix('one of ')}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(arguments)}"
    if get_origin(hint) is dict:
        return "a mapping ({a: 1}) to numbers"
    if arguments:
        return " or ".join(_words(each) for each in arguments)
    return {int: "an int", float: "a number", bool: "true or false", str: "text", Path: "a path"}[hint]


def _found(value: Any) -> str:
    """In short: a few aliases of YAML make a value that is endless when it is written out."""
    return "nothing" if value is None else one_line(_BRIEF.repr(value))


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 100
_BRIEF.maxlevel, _BRIEF.maxdict = 3, 8


_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
"""Kind -> pattern, and the characters it starts with. All else is text."""


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where `no` is false, 5e-5 a text and 2024-01-01 a date; here none of them is."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's attribute

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"expected a name, found {key!r}", node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _first)


def parse_yaml(text: str, source: str) -> Any:
    """Plain values from YAML. Raises ConfigError, one line that starts with `source` and the line's number."""
    try:
        return yaml.load(text, _Loader)  # safe: a SafeLoader makes plain values only
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}{where}: expected YAML, but {' '.join(problem.split())}.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
        raise ConfigError(f"{source}: expected YAML of settings, but {one_line(str(error))}.") from error


def main() -> None:
    """Print the reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", required=True, help="print all settings as Markdown")
    parser.parse_args()
    print(reference(), end="")


if __name__ == "__main__":
    main()
