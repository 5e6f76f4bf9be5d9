"""What of a set's crops is kept, and how often each is drawn: decided when all photographs are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dfosd_core.errors import ConfigError

from .prepare_crops import CropSettings, SourceResult
from .prepared_set import IndexRow

ALIKE_BITS = 8
"""Two pictures count as one if their `likeness` differs in at most so many of 128 bits; strangers differ in some 64."""
MOST_REPEATED = 4.0
"""Largest weight of a flat crop: where there are few, their share stays smaller than asked for."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of photographs and how often its crops are drawn."""

    path: Path
    weight: float = 1.0

    @classmethod
    def from_text(cls, text: str) -> Folder:
        """`FOLDER` or `FOLDER:WEIGHT`. Raises ConfigError for a weight that is not above 0."""
        name, colon, number = text.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            return cls(path=Path(text))  # no weight, or the colon of a drive
        if not colon or Path(text).is_dir():
            return cls(path=Path(text))
        return cls(path=Path(name), weight=checked_weight(weight, text))


def checked_weight(weight: float, where: str) -> float:
    """The weight. Raises ConfigError unless it is above 0."""
    if not 0 < weight < math.inf:
        raise ConfigError(f"{where}: expected a weight above 0, found {weight:g}.")
    return weight


def read_weights(path: Path) -> dict[str, float]:
    """Pattern -> weight of a table with two columns and a tab between. Raises ConfigError with the line's number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read: {error}. Give a table of patterns and weights.") from error
    weights: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, value = line.partition("\t")
        where = f"'{path}', line {number}"
        try:
            weights[pattern.strip()] = checked_weight(float(value), where)
        except ValueError as error:
            raise ConfigError(f"{where}: expected PATTERN, a tab and a weight, found '{line}'.") from error
    return weights


def weight_of(source: str, weights: Mapping[str, float]) -> float:
    """By the first pattern that is its name, or fits its whole name or the last part of it; 1 where none does."""
    last = PurePosixPath(source).name
    for pattern, weight in weights.items():
        if pattern == source or fnmatchcase(source, pattern) or fnmatchcase(last, pattern):
            return weight
    return 1.0


def select(results: Sequence[SourceResult], settings: CropSettings, weights: Mapping[str, float]) -> list[SourceResult]:
    """Without doubles, with the flat crops that are wanted, and with weights. weights: of each source.

    Flat crops are of equal weight, whatever their photographs' weights: together they get `settings.flat` of all draws.
    """
    results = drop_doubles(results)
    rows = [row for result in results for row in result.rows]
    wanted = settings.flat_for(sum(weights[row.source] for row in rows if not row.is_flat))
    flat = sorted((row for row in rows if row.is_flat), key=lambda row: (row.sha256, row.file))[: round(wanted)]
    kept = {row.file for row in flat}
    flat_weight = min(MOST_REPEATED, wanted / len(flat)) if flat else 1.0

    def weighted(row: IndexRow) -> IndexRow:
        return replace(row, weight=round(flat_weight if row.is_flat else weights[row.source], 4))

    return [
        replace(result, rows=[weighted(row) for row in result.rows if not row.is_flat or row.file in kept])
        for result in results
    ]


def drop_doubles(results: Sequence[SourceResult]) -> list[SourceResult]:
    """The same results in the same order; of pictures that are alike only the one with most pixels keeps its crops."""
    verdicts: dict[str, str] = {}
    seen: dict[tuple[int, int], list[tuple[int, SourceResult]]] = {}
    for result in sorted((r for r in results if r.rows), key=lambda r: (-r.pixels, r.source)):
        bits = int(result.likeness, 16)
        # Of nine parts of 128 bits at least one is the same if at most eight bits differ.
        keys = [(part, bits >> (part * 15) & 0x7FFF) for part in range(ALIKE_BITS + 1)]
        near = (
            other
            for key in keys
            for other_bits, other in seen.get(key, ())
            if (bits ^ other_bits).bit_count() <= ALIKE_BITS
        )
        original = next(near, None)
        if original is None:
            for key in keys:
                seen.setdefault(key, []).append((bits, result))
        else:
            kind = "the same file as" if original.sha256 == result.sha256 else "looks like"
            verdicts[result.source] = f"duplicate: {kind} {original.source}"
    return [replace(r, dropped=verdicts[r.source], rows=[]) if r.source in verdicts else r for r in results]
