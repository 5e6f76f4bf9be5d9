"""OUT/degraded.png: what a run trains on, to be looked at before the hours are spent."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dfosd_core import images

from ..data.crops import CropDataset
from ..scoring.pictures import SheetRow, contact_sheet, save_picture

SHEET = "degraded.png"
PAIRS, PAIRS_A_ROW = 40, 4


def write_degraded_sheet(crops: CropDataset, out: Path) -> None:
    """Write the run's first 40 samples, each crop beside the degraded one as the generator gets it (256 px of it)."""
    samples = [_unit(x) for k in range(PAIRS) for x in reversed(crops[k])]  # HR, degraded, HR, ...
    width = 2 * PAIRS_A_ROW
    rows = [SheetRow(images=samples[start : start + width]) for start in range(0, len(samples), width)]
    save_picture(contact_sheet(rows, ("HR", "degraded") * PAIRS_A_ROW), out / SHEET)


def _unit(x: Tensor) -> Tensor:
    return images.to_unit(x.unsqueeze(0)).clamp(0, 1)
