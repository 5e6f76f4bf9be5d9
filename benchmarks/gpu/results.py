"""Which check is next, and running one: its table on the screen and, line by line, in a file."""

from __future__ import annotations

import os
import platform
import re
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path

import torch

from dfosd_core.errors import one_line

from .setting import Row, Setting

CHECKS = {
    "correctness": "stages, folding, overflow guard and an image on the card against the CPU",
    "step": "one training step on the card against the CPU",
    "memory": "memory and time of a training step of each card's configuration",
    "speed": "speed of each stage, folded, channels last, compiled",
    "training": "a training of the embedded base",
    "ablation": "what the discriminator and its prior contribute; several calls",
}
"""Modules of this folder, in the order in which they are worth running, and what each says. A new one is a line here:
its `rows(setting)` yields a `Row` at a time under its `COLUMNS`."""
PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
LIMIT_S = 230
"""A check ends with the first row after this."""


def result_file(out: Path, name: str, tiny: bool = False) -> Path:
    """Where a check's table goes; that of a trial on a CPU is no result."""
    return out / f"{'tiny' if tiny else 'gpu'}_{name}.md"


def pending(out: Path, page: str) -> list[str]:
    """The checks that have no table yet, neither in the page nor in `out`."""
    pasted = re.findall(r"^### (\w+):", page, re.MULTILINE)
    return [name for name in CHECKS if name not in pasted and not result_file(out, name).exists()]


def run_check(name: str, setting: Setting, limit_s: float = LIMIT_S) -> bool:
    """Print and write the check's table. Whether all of its rows are as they should be."""
    module, began = import_module(f".{name}", __package__), time.monotonic()
    with result_file(setting.out, name, setting.tiny).open("w", encoding="utf-8", buffering=1) as file:

        def say(line: str) -> None:
            print(line, flush=True)
            file.write(f"{line}\n")  # line by line: what is measured stays, however the check ends

        say(f"### {name}: {describe(setting)}\n")
        say(_table_row((*module.COLUMNS, "ok")))
        say("|---" * (len(module.COLUMNS) + 1) + "|")
        wrong, ending = _take(module.rows(setting), say, began + limit_s)
        say(f"\n{time.monotonic() - began:.0f} s; rows that are not as they should be: {wrong}.{ending}\n")
    return not wrong and not ending


def _take(rows: Generator[Row, None, None], say: Callable[[str], None], until: float) -> tuple[int, str]:
    """Say the rows as they come. How many are wrong, and what ended the check before its last row, if anything."""
    wrong = 0
    try:
        with closing(rows):
            for row in rows:
                say(_table_row((*row.cells, "yes" if row.ok else "**no**")))
                wrong += not row.ok
                if time.monotonic() > until:
                    return wrong, " Stopped for lack of time."
    except Exception as error:  # whatever it is, the next check may still run
        traceback.print_exc()
        return wrong, f" Ended by {type(error).__name__}: {one_line(str(error))}"
    return wrong, ""


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def describe(setting: Setting) -> str:
    """Date, device and versions, for the line above a table."""
    words = [time.strftime("%Y-%m-%d"), platform.processor() or platform.machine(), f"torch {torch.__version__}"]
    if setting.device.type == "cuda":
        card = torch.cuda.get_device_properties(setting.device)
        words[1:2] = [f"{card.name} of {card.total_memory / 2**30:.0f} GiB", f"{os.cpu_count()} CPU cores"]
    return ", ".join([*words, *(["VGG16"] if setting.vgg else []), *(["tiny"] if setting.tiny else [])])
