"""Write the credits of the photographs that weights were trained on: whose, from where, under which licence.

    python -m train_tools.credits PHOTOS... --tables LICENCES.tsv --also EARLIER.tsv -o CREDITS.md

PHOTOS are folders or sets by `prepare_data`; each photograph must stand in a table by its SHA-256, under a licence that
lets weights trained on it be passed on. A table has the columns file, licence, author, origin and sha256, separated by
tabs. --also names tables whose rows are all taken, whether the files are at hand or not.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import sha256_of, write_text

from .data.photos import photo_paths
from .data.prepared_set import is_prepared, read_sources

COLUMNS = ("file", "licence", "author", "origin", "sha256")
REFUSED = ("gpl", "noncommercial", "non-commercial", "-nc", "-nd", "no derivatives", "proprietary")
"""Marks in a licence's name that rule a photograph out, in lower case."""

Row = Mapping[str, str]


def read_table(path: Path) -> list[Row]:
    """Raises ConfigError where the columns are others."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read: {error}. Give a table in tab-separated UTF-8.") from error
    if not rows or any(row.get(column) is None for row in rows for column in COLUMNS):
        raise ConfigError(f"'{path}': expected the columns {', '.join(COLUMNS)} in every row, found others or no row.")
    return list(rows)


def used_rows(folders: Sequence[Path], tables: Iterable[Path]) -> list[Row]:
    """The tables' rows of the files in `folders`, each once. Raises ConfigError for a file that is in no table."""
    known = {row["sha256"]: row for table in tables for row in read_table(table)}
    used: dict[str, Row] = {}
    for path, digest in (file for folder in folders for file in _digests(folder).items()):
        if digest not in known:
            raise ConfigError(f"'{path}' is in none of the tables: nobody could be credited. Add it, or take it out.")
        used[digest] = known[digest]
    return list(used.values())


def _digests(folder: Path) -> dict[Path, str]:
    """Path -> SHA-256 of each photograph that is in a folder, or was when a set was prepared of it."""
    if is_prepared(folder):
        return {folder / name: digest for name, digest in read_sources(folder).items()}
    return {path: sha256_of(path) for path in photo_paths(folder)}


def credits_page(rows: Sequence[Row]) -> str:
    """Markdown: a table for each licence. Raises ConfigError for a licence that does not allow it."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        licence = row["licence"].strip()
        if not licence or any(mark in licence.lower() for mark in REFUSED):
            raise ConfigError(
                f"'{row['file']}' is under '{licence}': weights trained on it may not be passed on. Take it out."
            )
        groups.setdefault(licence, []).append(row)
    lines = [
        "# Credits of the photographs",
        "",
        f"The embedded default was trained on these {len(rows)} photographs. The file is written by",
        "`python -m train_tools.credits`; authors are named as far as the sources name them.",
    ]
    for licence, members in sorted(groups.items()):
        lines += ["", f"## {licence} ({len(members)})", "", "| photograph | author | from |", "|---|---|---|"]
        for row in sorted(members, key=lambda row: row["file"]):
            lines.append(f"| {' | '.join(_cell(row[column]) for column in ('file', 'author', 'origin'))} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode()  # of a name that was UTF-8 and has been read as Latin-1
    text = "".join(c for c in text.replace("|", "/") if c.isprintable() or c.isspace())  # EXIF ends names with a NUL
    return " ".join(text.split()) or "not stated"


def main() -> int:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTOS")
    parser.add_argument("--tables", nargs="+", type=Path, required=True, metavar="TSV")
    parser.add_argument("--also", nargs="*", type=Path, default=[], metavar="TSV")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        used = used_rows(args.photos, args.tables) + [row for table in args.also for row in read_table(table)]
        rows = list({row["sha256"] or row["file"]: row for row in used}.values())  # no photograph twice
        write_text(args.output, credits_page(rows))
    except DfosdError as error:
        print(f"credits: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(rows)} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
