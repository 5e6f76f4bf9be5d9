"""Make a training set out of a folder of anything: crops that teach, none broken, tiny, flat, blurred or double.

    python -m train_tools.prepare_data PHOTOS SET [--size 640] [--smallest 512] [--workers 2]

Writes SET/crops, SET/index.jsonl (one line a crop), SET/report.md (what was dropped, and why) and
SET/contact_sheet.png; give SET as data.photos. PHOTOS is only read. Stop it at any moment: the same command goes on,
and takes up files that are new or have changed. The result does not depend on --workers.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import write_text

from .data.prepare_crops import CropSettings, SourceResult, prepare_source, stamp
from .data.prepared_set import CROPS, INDEX, IndexRow
from .scoring.pictures import save_picture

JOURNAL = ".journal.jsonl"
"""SET's memory: the settings, then one line a finished source. A last line cut off by a kill is passed over."""
REPORT, SHEET = "report.md", "contact_sheet.png"
OWN_FILE = re.compile(r"[0-9a-f]{16}-\d{3}\.webp|\.[0-9a-f]{16}-\d{3}\.webp\.\d+\.part")
"""A crop, or what a kill has left of one."""
ALIKE_BITS = 8
"""Two pictures count as one if their `likeness` differs in at most so many of 128 bits; strangers differ in some 64."""
THUMB_PX, SHEET_COLUMNS, SHEET_ROWS = 128, 10, 8


def prepare(photos: Path, out: Path, settings: CropSettings, workers: int = 2) -> list[IndexRow]:
    """Bring `out` in line with `photos`; return its index. Raises ConfigError, one line."""
    _refuse(photos, out, settings, workers)
    (out / CROPS).mkdir(parents=True, exist_ok=True)
    sources = _sources(photos, out)
    known = _read_journal(out, settings)
    known = {name: known[name] for name in sources if name in known and known[name].stamp == stamp(photos / name)}
    _write_journal(out, settings, known)
    while missing := _missing(sources, known, out):
        fresh = _results(photos, missing, out, settings, workers)
        with (out / JOURNAL).open("a", encoding="utf-8", buffering=1) as journal:  # a line reaches the system at once
            for result in tqdm(fresh, total=len(missing), unit="file"):
                journal.write(json.dumps(asdict(result)) + "\n")
                known[result.source] = result
    results = drop_doubles([known[name] for name in sources])
    rows = [row for result in results for row in result.rows]
    write_text(out / INDEX, "".join(f"{json.dumps(asdict(row), ensure_ascii=False)}\n" for row in rows))
    write_text(out / REPORT, report(results, settings))
    listed = {Path(row.file).name for row in rows}
    for path in (out / CROPS).iterdir():  # only now: till here the old index needed them
        if OWN_FILE.fullmatch(path.name) and path.name not in listed:
            path.unlink()
    if not rows:
        raise ConfigError(f"No crop is left of the {len(sources)} files in '{photos}'; '{out / REPORT}' says why.")
    save_picture(contact_sheet(out, rows), out / SHEET)
    return rows


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


def report(results: Sequence[SourceResult], settings: CropSettings) -> str:
    """What became of each file, as Markdown."""
    dropped = [result for result in results if result.dropped]
    kinds = Counter(result.dropped.partition(":")[0] for result in dropped)
    crops = sum(len(result.rows) for result in results)
    lines = [
        "# Prepared crops",
        "",
        f"{len(results)} files: {len(results) - len(dropped)} gave {crops} crops, {len(dropped)} were dropped. "
        f"Crops of {settings.size} pixels, photographs of at least {settings.smallest}.",
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


def _refuse(photos: Path, out: Path, settings: CropSettings, workers: int) -> None:
    if not photos.is_dir():
        raise ConfigError(f"There is no folder '{photos}': expected one with photographs.")
    if out.resolve() == photos.resolve() or out.resolve() in photos.resolve().parents:
        raise ConfigError(f"SET '{out}' holds PHOTOS '{photos}', which stay untouched. Give another folder.")
    if not 16 <= settings.smallest <= settings.size or workers < 1:
        raise ConfigError(
            f"Expected 16 <= --smallest <= --size and --workers of 1 or more, found {settings.smallest}, "
            f"{settings.size} and {workers}."
        )


def _sources(photos: Path, out: Path) -> list[str]:
    """Every file below `photos` but hidden ones, sorted; `out` may lie inside and is passed over."""
    found: list[str] = []
    for folder, inner, names in os.walk(photos):
        here = Path(folder)
        inner[:] = [name for name in inner if name[0] != "." and (here / name).resolve() != out.resolve()]
        found += [(here / name).relative_to(photos).as_posix() for name in names if name[0] != "."]
    return sorted(found)


def _missing(sources: Sequence[str], known: dict[str, SourceResult], out: Path) -> list[str]:
    """Sources to work on: new ones, and those whose crops are gone, as a double's are once its original is gone."""
    if new := [name for name in sources if name not in known]:
        return new
    kept = drop_doubles([known[name] for name in sources])
    return [result.source for result in kept if not all((out / row.file).exists() for row in result.rows)]


def _read_journal(out: Path, settings: CropSettings) -> dict[str, SourceResult]:
    try:
        first, *lines = (out / JOURNAL).read_text(encoding="utf-8").splitlines() or [""]
    except FileNotFoundError:
        return {}
    try:
        before = json.loads(first)
        results = [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise ConfigError(f"'{out / JOURNAL}' is damaged. Delete '{out}' and start afresh.") from error
    if before != asdict(settings):
        raise ConfigError(f"'{out}' was made with other settings ({before}). Give these, or another folder.")
    return {values["source"]: SourceResult.from_plain(values) for values in results}


def _write_journal(out: Path, settings: CropSettings, known: dict[str, SourceResult]) -> None:
    lines = [asdict(settings), *(asdict(result) for result in known.values())]
    write_text(out / JOURNAL, "".join(f"{json.dumps(line)}\n" for line in lines))


def _results(
    photos: Path, names: Sequence[str], out: Path, settings: CropSettings, workers: int
) -> Iterator[SourceResult]:
    if workers == 1:
        yield from (prepare_source(photos, name, out, settings) for name in names)
        return
    context = multiprocessing.get_context("spawn")
    queue, running = iter(names), dict[Future[SourceResult], str]()
    try:
        with ProcessPoolExecutor(workers, context, _ignore_interrupts) as pool:
            while True:
                while len(running) < 2 * workers and (name := next(queue, None)) is not None:
                    running[pool.submit(prepare_source, photos, name, out, settings)] = name
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
    except BrokenProcessPool as error:
        raise ConfigError(
            f"A worker process died, most likely for lack of memory, at one of {', '.join(sorted(running.values()))}. "
            "Start again with fewer --workers."
        ) from error


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops the workers


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and prepare; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("set", type=Path, metavar="SET")
    parser.add_argument("--size", type=int, default=CropSettings.size, help="edge of a crop in pixels (%(default)s)")
    parser.add_argument(
        "--smallest", type=int, default=CropSettings.smallest, help="shorter images are dropped (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    args = parser.parse_args(argv)
    try:
        rows = prepare(args.photos, args.set, CropSettings(size=args.size, smallest=args.smallest), args.workers)
    except DfosdError as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_data: stopped; the same command goes on from here.", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"{len(rows)} crops in '{args.set}'; '{args.set / REPORT}' says what was dropped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
