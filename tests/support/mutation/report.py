"""What became of the mutants: OUT/trials.tsv read, a summary of it, and the page in docs/results."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path

from .mutants import Mutant

HEAD = "| file | line | mutant | why no test fails |\n|---|---|---|---|\n"


def key_of(mutant: Mutant) -> str:
    """What names a mutant in the tables."""
    return f"{mutant.module}\t{mutant.line}\t{mutant.operator}\t{mutant.occurrence}"


def fates(out: Path) -> dict[str, dict[str, str]]:
    """Mutant -> file of tests -> the test that killed it, "" if none."""
    found: dict[str, dict[str, str]] = {}
    table = out / "trials.tsv"
    for line in table.read_text("utf-8").splitlines() if table.exists() else []:
        module, number, operator, occurrence, name, test = line.split("\t")
        found.setdefault(f"{module}\t{number}\t{operator}\t{occurrence}", {})[name] = test
    return found


def summary(mutants: Mapping[Mutant, str], out: Path) -> None:
    """Writes OUT/mutants.tsv: killed, survived (some tests ran it), or unreached (no test tried runs it)."""
    lines = [
        f"{fate}\t{key_of(mutant)}\t{mutant.function}\t{by}\t{mutants[mutant]}"
        for mutant, (fate, by) in _judged(mutants, out).items()
    ]
    (out / "mutants.tsv").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


def write_report(mutants: Mapping[Mutant, str], out: Path, page: Path, command: str) -> None:
    """The page in Markdown: counts, and all mutants that live. Reasons that the page has for them already stay."""
    judged = _judged(mutants, out)
    count = {fate: sum(each == fate for each, _ in judged.values()) for fate in ("killed", "survived", "unreached")}
    reasons = _reasons(page)
    rows: list[str] = []
    for mutant, (fate, _) in judged.items():
        shown = mutants[mutant].replace("|", "\\|").replace("`", "'")
        cell = f"| {mutant.module.removeprefix('dfosd_core/')} | {mutant.line} | `{shown}` |"
        if fate != "killed":
            rows.append(f"{cell} {reasons.get(cell, 'not reached' if fate == 'unreached' else '')} |")
    page.write_text(
        f"# Mutants\n\n{time.strftime('%Y-%m-%d')}, `{command}`, Python {platform.python_version()}: of {len(mutants)} "
        f"sampled mutants of `dfosd_core`,\n**{count['killed']} were killed "
        f"({100 * count['killed'] / len(mutants):.1f} %)**; {count['survived']} lived through all tests that were\n"
        f"tried, and {count['unreached']} are run by none of them. "
        "Left out were tests that train whole runs, need a host or a browser, or are marked slow. All that live:\n\n"
        + HEAD
        + "".join(f"{row}\n" for row in sorted(rows)),
        encoding="utf-8",
    )


def _judged(mutants: Mapping[Mutant, str], out: Path) -> dict[Mutant, tuple[str, str]]:
    tried = fates(out)
    found: dict[Mutant, tuple[str, str]] = {}
    for mutant in mutants:
        own = tried.get(key_of(mutant), {})
        by = next((test for test in own.values() if test), "")
        found[mutant] = ("killed" if by else "survived" if own else "unreached", by or " ".join(own))
    return found


def _reasons(page: Path) -> dict[str, str]:
    """What a hand has written into the last column."""
    text = page.read_text("utf-8") if page.exists() else ""
    rows: list[tuple[str, str]] = re.findall(r"^(\| .* \|) ([^|]+) \|$", text, re.MULTILINE)
    return dict(rows)
