"""What a run writes down as it goes: OUT/metrics.jsonl, OUT/tensorboard, OUT/loss.png.

metrics.jsonl is the record, one line `{"step": 40, "loss/mse": 0.0021, ...}` a call; the others follow from it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dfosd_core.files import write_text

from ..scoring.pictures import save_picture
from .plots import draw_run
from .wandb_board import WandbBoard

PLOT_EVERY_S = 30.0
PLOT_SHARE = 0.02
"""Drawing takes at most this part of the time, however long a run's curves have become."""

Row = dict[str, Any]
ItemT = TypeVar("ItemT")


class Logbook:
    """The log of one run; only one process writes it. A kill at any moment costs at most the line being written.

    out: the run's folder. resume_step: the step the run goes on from; what was logged after it is dropped, since
    it will be logged again. 0 begins anew. wandb: gets the same values and images.
    """

    def __init__(self, out: Path, resume_step: int, wandb: WandbBoard | None = None) -> None:
        self.out, self.path, self.wandb = out, out / "metrics.jsonl", wandb
        out.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(self.path) if row["step"] <= resume_step] if resume_step else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._series: dict[str, tuple[list[int], list[float]]] = {}
        for row in kept:
            self._remember(row["step"], row)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)  # a line reaches the system at once
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=resume_step + 1 if resume_step else 0)
        self._plot_at = time.monotonic() + PLOT_EVERY_S
        self._unplotted = bool(kept)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line, and draw loss.png if its time has come."""
        row = {"step": step} | {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._remember(step, row)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(step, values)
        self._unplotted = True
        if time.monotonic() >= self._plot_at:
            self.plot()

    def images(self, step: int, name: str, image: Tensor) -> None:
        """Show an image (3, H, W) in [0, 1] in TensorBoard."""
        self._board.add_image(name, image.detach().cpu().clamp(0, 1), step)
        self._board.flush()
        if self.wandb:
            self.wandb.image(step, name, image)

    def plot(self) -> None:
        """Draw all curves into OUT/loss.png."""
        began = time.monotonic()
        if self._series:
            save_picture(draw_run(self._series), self.out / "loss.png")
        self._unplotted = False
        ended = time.monotonic()
        self._plot_at = ended + max(PLOT_EVERY_S, (ended - began) / PLOT_SHARE)

    def close(self) -> None:
        """Draw what has not been drawn and close all files."""
        if self._unplotted:
            self.plot()
        self._board.close()
        self._file.close()
        if self.wandb:
            self.wandb.close()

    def _remember(self, step: int, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                steps, values = self._series.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)


def read_log(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; none without the file. A line that a kill or a disk has damaged is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [row for line in lines[:-1] if (row := _row(line))]  # after the last newline: nothing, or a torn line


def _row(line: str) -> Row | None:
    """None for what is no row: a step, and numbers."""
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    entries = cast("Row", row) if isinstance(row, dict) else {}
    are_numbers = all(value is None or type(value) in (int, float) for value in entries.values())
    return entries if are_numbers and type(entries.get("step")) is int else None


class Meter:
    """Collects values until they are logged. `values` goes into checkpoints, so that a resumed line is whole."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take in one step's values."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def take_means(self) -> dict[str, float]:
        """The mean of each value over the steps that had it; forgets them."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.values = {}
        return means


def timed(items: Iterable[ItemT]) -> Iterator[tuple[float, ItemT]]:
    """Each item with the seconds that were spent waiting for it."""
    iterator = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield time.perf_counter() - began, item
