"""What `prepare_data` says about the set it has made: a report, a table of the photographs, a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from .prepare_crops import CropSettings, SourceResult
from .prepared_set import IndexRow

THUMB_PX, SHEET_COLUMNS, SHEET_ROWS = 128, 10, 8


def sources_table(results: Sequence[SourceResult], weights: Mapping[str, float]) -> str:
    """The photographs that have crops in the set."""
    kept = [result for result in results if result.rows]
    lines = [f"{' '.join(r.source.split())}\t{r.sha256}\t{len(r.rows)}\t{weights[r.source]:g}\n" for r in kept]
    return "file\tsha256\tcrops\tweight\n" + "".join(lines)


def report(results: Sequence[SourceResult], settings: CropSettings) -> str:
    """What became of each file, as Markdown."""
    dropped = [result for result in results if result.dropped]
    kinds = Counter(result.dropped.partition(":")[0] for result in dropped)
    rows = [row for result in results for row in result.rows]
    flat = [row for row in rows if row.is_flat]
    drawn = sum(row.weight for row in flat) / max(sum(row.weight for row in rows), 1e-9)
    lines = [
        "# Prepared crops",
        "",
        f"{len(results)} files: {len(results) - len(dropped)} gave {len(rows)} crops, {len(dropped)} were dropped. "
        f"Crops of {settings.size} pixels, photographs of at least {settings.smallest}. {len(flat)} crops are without "
        f"texture; {drawn:.1%} of the draws are of them.",
        "",
        "| dropped as | files |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in sorted(kinds.items())),
        "",
        *(f"- `{result.source}`: {result.dropped}" for result in dropped),
    ]
    return "\n".join(lines).rstrip() + "\n"


def contact_sheet(out: Path, rows: Sequence[IndexRow]) -> Image.Image:
    """At most 80 crops, evenly chosen."""
    count = min(len(rows), SHEET_COLUMNS * SHEET_ROWS)
    lines = -(-count // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * THUMB_PX, lines * THUMB_PX), "white")
    for i in range(count):
        with Image.open(out / rows[i * len(rows) // count].file) as crop:
            thumb = crop.convert("RGB").resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
        sheet.paste(thumb, (i % SHEET_COLUMNS * THUMB_PX, i // SHEET_COLUMNS * THUMB_PX))
    return sheet
