"""Whether a fake offers what the real program does: compared with the program's source, which need not run."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

Part = Callable[..., Any] | tuple[str, ...]
"""A fake's function, or names of attributes."""
Contract = dict[tuple[str, str], Part]
"""(file, function or `Class.method`, or for attributes `Class` or "") -> the fake's."""


def differences(root: Path, contract: Contract) -> list[str]:
    """What `root`, the program's folder, has otherwise: one line each."""
    found: list[str] = []
    for (file, name), part in contract.items():
        body = _body(root / file, name.rpartition(".")[0] if callable(part) else name)
        if callable(part):
            found += [f"{file} {name}: {text}" for text in _function(body, name.rpartition(".")[2], part)]
        else:
            found += [f"{file} {name}: no {attribute}" for attribute in part if attribute not in _names(body)]
    return found


def _function(body: list[ast.stmt], name: str, fake: Callable[..., Any]) -> Iterable[str]:
    """Every call that the fake takes, the real one must take; and it may want no more than the fake does."""
    real = next((s for s in body if isinstance(s, ast.FunctionDef) and s.name == name), None)
    if real is None:
        yield "is not there"
        return
    arguments = [a.arg for a in [*real.args.posonlyargs, *real.args.args]]
    needed = arguments[: len(arguments) - len(real.args.defaults)]
    ours = inspect.signature(fake).parameters
    theirs = [name for name in arguments if name != "self"]
    by_name = [name for name, parameter in ours.items() if parameter.kind is parameter.KEYWORD_ONLY]
    mine = [name for name in ours if name not in ("self", *by_name)]
    if unknown := [name for name in by_name if name not in theirs]:
        yield f"takes no {unknown}"
    if theirs[: len(mine)] != mine and not real.args.vararg:
        yield f"takes {theirs}, the fake {mine}"
    if missing := [name for name in needed if name not in ("self", *mine, *by_name)]:
        yield f"needs {missing}"
    if given := [n for n in mine if ours[n].default is not inspect.Parameter.empty and n in needed]:
        yield f"has no default for {given}"


def _body(path: Path, classes: str) -> list[ast.stmt]:
    """The statements of a file or of a class in it, those of its bases in the same file behind its own."""
    body = _parsed(path).body
    if not classes:
        return body
    found: list[ast.stmt] = []
    wanted = [classes]
    while wanted:
        name = wanted.pop(0)
        for statement in body:
            if isinstance(statement, ast.ClassDef) and statement.name == name:
                found += statement.body
                wanted += [base.id for base in statement.bases if isinstance(base, ast.Name)]
    return found


def _names(body: list[ast.stmt]) -> set[str]:
    """Everything that is defined or assigned, also to `self`."""
    names: set[str] = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.alias):
                names.add((node.asname or node.name).partition(".")[0])
    return names


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))
