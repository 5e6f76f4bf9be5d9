"""A seeded sample of cosmic-ray's mutants of dfosd_core: one for each place that it can change."""

from __future__ import annotations

import ast
import difflib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

Statement = ast.stmt | ast.ExceptHandler | ast.match_case
Place = tuple[tuple[int, int], tuple[int, int]]
"""(line, column) of the start and of the end."""


@dataclass(frozen=True)
class Mutant:
    module: str
    """Below the root of the repository, with slashes."""
    line: int
    operator: str
    """As cosmic-ray names it."""
    occurrence: int
    function: str
    """Qualified name of the outermost function around it; empty for what an import runs."""

    def source(self, original: str) -> str:
        """The module with this one fault, its lines where they were."""
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        mutated = mutate_code(original, operator, self.occurrence)
        assert mutated is not None, self
        return mutated

    def statement(self, original: str) -> tuple[int, int]:
        """First and last line of the statement around it, of a compound one without what is in it: one of them runs."""
        first, last = 1, 1
        for node in ast.walk(ast.parse(original)):  # breadth first: the innermost comes last
            if isinstance(node, Statement):
                start, end = _head(node)
                if start <= self.line <= end:
                    first, last = start, end
        return first, last

    def shown(self, original: str) -> str:
        """The changed lines, before and after, on one line."""
        changed = difflib.ndiff(original.splitlines(), self.source(original).splitlines())
        lines = [line for line in changed if line[:2] in ("- ", "+ ")]
        return " => ".join(" ".join(line[2:].split()) for line in lines)


def sampled(root: Path, seed: int) -> list[Mutant]:
    """All places in random order, each with one of its mutants. What nothing reads, annotations, is left out."""
    random = Random(seed)
    chosen: list[Mutant] = []
    for path in sorted((root / "dfosd_core").rglob("*.py")):
        places: dict[Place, list[Mutant]] = defaultdict(list)
        original = path.read_text(encoding="utf-8")
        unread = _unread(ast.parse(original))
        for place, mutant in _of_module(path.relative_to(root).as_posix(), original):
            if place[0] not in unread:
                places[place].append(mutant)
        chosen += [random.choice(mutants) for mutants in places.values()]
    random.shuffle(chosen)
    return chosen


def _head(node: Statement) -> tuple[int, int]:
    """The lines of a statement up to where the first one in it begins."""
    start = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
    body: list[ast.stmt] = getattr(node, "body", [])
    inner = min((each.lineno for each in body), default=0)
    if not body:
        return start, getattr(node, "end_lineno", 0) or start
    return start, max(inner - 1, start)


def _of_module(module: str, original: str) -> Iterator[tuple[Place, Mutant]]:
    nodes = list(ast_nodes(get_ast(original)))
    functions = list(_functions(ast.parse(original), ""))
    for name in cosmic_ray.plugins.operator_names():
        operator_class = cosmic_ray.plugins.get_operator(name)
        if operator_class.arguments():
            continue
        operator = operator_class()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            around = [called for called, first, last in functions if first <= start < last]
            yield (start, end), Mutant(module, start[0], name, occurrence, around[0] if around else "")


def _functions(node: ast.AST, within: str) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Qualified name, start and end of the bodies of all functions that are in no other function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{within}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            first, last = child.body[0], child.body[-1]
            start, end = (first.lineno, first.col_offset), (last.end_lineno or 0, last.end_col_offset or 0)
            yield f"{within}{child.name}", start, end
        else:
            yield from _functions(child, within)


def _unread(tree: ast.Module) -> set[tuple[int, int]]:
    """Line and column of everything in annotations: with `from __future__ import annotations` nothing computes them."""
    found: set[tuple[int, int]] = set()
    for node in ast.walk(tree):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for part in [part for part in parts if part is not None]:
            for line in range(part.lineno, part.end_lineno + 1):
                first = part.col_offset if line == part.lineno else 0
                last = part.end_col_offset if line == part.end_lineno else 200
                found.update((line, column) for column in range(first, last + 1))
    return found
