"""Photographs that a run sets aside for its validation where it is given no pairs: OUT/held_out.

They are chosen once, at the run's start, and OUT/held_out/photographs.json remembers them. No later start takes a crop
from them, whatever photographs have been added and wherever the folder lies then.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from dfosd_core.errors import ConfigError
from dfosd_core.files import write_text
from dfosd_core.training.degradations import DEGRADATIONS

from ..data.photos import CropSource
from ..scoring.made_pairs import write_pair
from ..settings.config import TrainConfig

FOLDER, RECORD = "held_out", "photographs.json"
MOST = 10
"""One photograph in so many may be set aside."""
SMALLEST_PX = 256
"""Of a pair's larger image; with larger training crops, as large as these."""


def set_aside(config: TrainConfig, source: CropSource) -> str:
    """Choose the photographs of a new run, write their pairs and the record; return a line for the user.

    None are chosen where pairs are given or none are wanted. The choice follows from the run's seed and the names
    alone; unreadable ones are passed over.
    """
    folder = config.run.out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a start that was stopped before its first checkpoint
    if config.validation.pairs is not None or config.validation.count == 0:
        return ""
    photographs = source.photographs()
    count = min(config.validation.count, len(photographs) // MOST)
    if count == 0:
        return (
            f"No validation: from {MOST} photographs on some are set aside for it, found {len(photographs)}. "
            "Give pairs of your own as validation.pairs (train_tools/make_pairs.py makes them)."
        )
    chosen: list[str] = []
    for name in sorted(photographs, key=lambda name: _rank(config.run.seed, name)):
        if len(chosen) < count and _write(config, photographs[name], folder, len(chosen)):
            chosen.append(name)
    write_text(folder / RECORD, json.dumps(chosen, indent=1, ensure_ascii=False) + "\n")
    return f"Set aside for validation: {len(chosen)} of {len(photographs)} photographs, as pairs in '{folder}'."


def names_set_aside(out: Path) -> list[str]:
    """Of the run in OUT, by its record; none without one. Raises ConfigError for a record that is none."""
    record = out / FOLDER / RECORD
    if not record.exists():
        return []
    try:
        names = json.loads(record.read_text(encoding="utf-8", errors="surrogateescape"))
    except ValueError as error:
        raise ConfigError(f"'{record}' is damaged: expected the photographs set aside for validation.") from error
    return [str(name) for name in names]


def pairs_of(config: TrainConfig) -> Path | None:
    """The folder of the pairs that the run is validated on; None for no validation."""
    if config.validation.count == 0:
        return None
    own = config.run.out / FOLDER
    return config.validation.pairs or (own if (own / RECORD).exists() else None)


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).hexdigest()


def _write(config: TrainConfig, photograph: Path, folder: Path, number: int) -> bool:
    presets = config.data.presets
    try:
        write_pair(
            photograph,
            folder,
            f"{number:03}",
            degrade=DEGRADATIONS[presets[number % len(presets)]],
            size=max(SMALLEST_PX, config.data.crop),
            rng=np.random.default_rng((config.run.seed, number)),
        )
    except ConfigError:
        return False
    return True
