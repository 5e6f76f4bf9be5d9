"""The suite of all hosts as a table: tests down, hosts across.

pytest tests/hosts --junitxml report.xml; python tests/support/host_table.py report.xml
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

PROGRAMS = {"a1111", "forge", "reforge"}
"""Parameters that are hosts; all others are cases of one test."""


def table(report: Path) -> str:
    """Markdown: how many cases of each test of the suite passed for each host; what did not is named."""
    counts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case in ET.parse(report).iter("testcase"):
        host = case.attrib["classname"].rpartition(".")[2]
        test, _, inside = case.attrib["name"].partition("[")
        programs = PROGRAMS & set(re.split(r"[-\]]", inside))
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        if host.startswith("Test") and test in suite():
            counts[test][f"{host} {''.join(programs)}".strip()].append(outcome)
    hosts = sorted({host for row in counts.values() for host in row})
    lines = [["test", *(host.removeprefix("Test") for host in hosts)], ["---"] * (len(hosts) + 1)]
    lines += [
        [test.removeprefix("test_"), *(_cell(row.get(host, [])) for host in hosts)] for test, row in counts.items()
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def suite() -> set[str]:
    """Names of the tests that hosts inherit."""
    source = (Path(__file__).parent / "conformance.py").read_text("utf-8")
    return set(re.findall(r"    def (test_\w+)", source))


def _cell(outcomes: list[str]) -> str:
    bad = [outcome for outcome in outcomes if outcome != "passed"]
    return ", ".join(bad) or (str(len(outcomes)) if outcomes else "")


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1])) + "\n")
