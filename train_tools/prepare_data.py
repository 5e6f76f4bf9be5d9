"""Make a training set out of folders of anything: crops with texture, none broken, tiny, blurred or double.

    python -m train_tools.prepare_data PHOTOS... SET [--size 640] [--smallest 512] [--flat 0.1] [--weights TSV]

PHOTOS is a folder, or FOLDER:WEIGHT: its crops are drawn so often. --weights gives single photographs a weight, by a
table of patterns and weights with a tab between, for example `people_*  3`; the first pattern that fits counts. A small
share of crops without texture is kept, so that skies and walls stay what they are.

Writes SET/crops, SET/index.jsonl (one line a crop), SET/sources.tsv (the photographs in it, for their credits),
SET/report.md (what was dropped, and why) and SET/contact_sheet.png; give SET as data.photos. PHOTOS are only read. Stop
it at any moment: the same command goes on, and takes up files that are new or have changed. The result does not depend
on --workers.
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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import write_text

from .data.prepare_crops import CropSettings, SourceResult, prepare_source, stamp
from .data.prepared_set import CROPS, INDEX, SOURCES, IndexRow
from .data.selection import Folder, read_weights, select, weight_of
from .data.set_report import contact_sheet, report, sources_table
from .scoring.pictures import save_picture

JOURNAL = ".journal.jsonl"
"""SET's memory: the settings, then one line a finished source. A last line cut off by a kill is passed over."""
REPORT, SHEET = "report.md", "contact_sheet.png"
OWN_FILE = re.compile(r"[0-9a-f]{16}-\d{3}\.webp|\.[0-9a-f]{16}-\d{3}\.webp\.\d+\.part")
"""A crop, or what a kill has left of one."""


def prepare(
    folders: Sequence[Folder],
    out: Path,
    settings: CropSettings,
    workers: int = 2,
    patterns: Mapping[str, float] | None = None,
) -> list[IndexRow]:
    """Bring `out` in line with the folders; return its index. patterns: see `weight_of`. Raises ConfigError."""
    _refuse(folders, out, settings, workers)
    (out / CROPS).mkdir(parents=True, exist_ok=True)
    sources = _sources(folders, out)
    weights = {name: folder.weight * weight_of(name, patterns or {}) for name, (folder, _) in sources.items()}
    paths = {name: path for name, (_, path) in sources.items()}
    known = _read_journal(out, settings)
    known = {name: known[name] for name in sources if name in known and known[name].stamp == stamp(paths[name])}
    _write_journal(out, settings, known)
    while missing := _missing(known, out, settings, weights):
        fresh = _results({name: paths[name] for name in missing}, out, settings, workers)
        with (out / JOURNAL).open("a", encoding="utf-8", buffering=1) as journal:  # a line reaches the system at once
            for result in tqdm(fresh, total=len(missing), unit="file"):
                journal.write(json.dumps(asdict(result)) + "\n")
                known[result.source] = result
    results = select([known[name] for name in sources], settings, weights)
    rows = [row for result in results for row in result.rows]
    write_text(out / INDEX, "".join(f"{json.dumps(asdict(row), ensure_ascii=False)}\n" for row in rows))
    write_text(out / SOURCES, sources_table(results, weights))
    write_text(out / REPORT, report(results, settings))
    listed = {Path(row.file).name for row in rows}
    for path in (out / CROPS).iterdir():  # only now: till here the old index needed them
        if OWN_FILE.fullmatch(path.name) and path.name not in listed:
            path.unlink()
    if not rows:
        named = ", ".join(f"'{folder.path}'" for folder in folders)
        raise ConfigError(f"No crop is left of the {len(sources)} files in {named}; '{out / REPORT}' says why.")
    save_picture(contact_sheet(out, rows), out / SHEET)
    return rows


def _refuse(folders: Sequence[Folder], out: Path, settings: CropSettings, workers: int) -> None:
    for folder in folders:
        if not folder.path.is_dir():
            raise ConfigError(f"There is no folder '{folder.path}': expected one with photographs.")
        if out.resolve() == folder.path.resolve() or out.resolve() in folder.path.resolve().parents:
            raise ConfigError(f"SET '{out}' holds PHOTOS '{folder.path}', which stay untouched. Give another folder.")
    names = Counter(folder.path.resolve().name for folder in folders)
    if double := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"Two of the folders are called '{double[0]}'. Rename one, so that their photographs differ.")
    if not 16 <= settings.smallest <= settings.size or workers < 1 or not 0 <= settings.flat < 1:
        raise ConfigError(
            "Expected 16 <= --smallest <= --size, 0 <= --flat < 1 and --workers of 1 or more, found "
            f"{settings.smallest}, {settings.size}, {settings.flat:g} and {workers}."
        )


def _sources(folders: Sequence[Folder], out: Path) -> dict[str, tuple[Folder, Path]]:
    """Every file below the folders but hidden ones, sorted, by its path from the folder on.

    Of several folders the name comes first. `out` may lie inside one and is passed over.
    """
    found: dict[str, tuple[Folder, Path]] = {}
    for folder in folders:
        prefix = f"{folder.path.resolve().name}/" if len(folders) > 1 else ""
        for place, inner, names in os.walk(folder.path):
            here = Path(place)
            inner[:] = [name for name in inner if name[0] != "." and (here / name).resolve() != out.resolve()]
            for path in (here / name for name in names if name[0] != "."):
                found[prefix + path.relative_to(folder.path).as_posix()] = folder, path
    return dict(sorted(found.items()))


def _missing(
    known: Mapping[str, SourceResult], out: Path, settings: CropSettings, weights: Mapping[str, float]
) -> list[str]:
    """Sources to work on: new ones, and those whose crops are gone, as a double's are once its original is gone."""
    if new := [name for name in weights if name not in known]:
        return new
    kept = select([known[name] for name in weights], settings, weights)
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


def _results(paths: Mapping[str, Path], out: Path, settings: CropSettings, workers: int) -> Iterator[SourceResult]:
    if workers == 1:
        yield from (prepare_source(path, name, out, settings) for name, path in paths.items())
        return
    context = multiprocessing.get_context("spawn")
    queue, running = iter(paths), dict[Future[SourceResult], str]()
    try:
        with ProcessPoolExecutor(workers, context, _ignore_interrupts) as pool:
            while True:
                while len(running) < 2 * workers and (name := next(queue, None)) is not None:
                    running[pool.submit(prepare_source, paths[name], name, out, settings)] = name
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
    parser.add_argument("photos", nargs="+", metavar="PHOTOS", help="a folder, or FOLDER:WEIGHT")
    parser.add_argument("set", type=Path, metavar="SET")
    parser.add_argument("--size", type=int, default=CropSettings.size, help="edge of a crop in pixels (%(default)s)")
    parser.add_argument(
        "--smallest", type=int, default=CropSettings.smallest, help="shorter images are dropped (%(default)s)"
    )
    parser.add_argument(
        "--flat", type=float, default=CropSettings.flat, help="share of crops without texture (%(default)s)"
    )
    parser.add_argument("--weights", type=Path, metavar="TSV", help="weights of single photographs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    args = parser.parse_args(argv)
    try:
        folders = [Folder.from_text(text) for text in args.photos]
        settings = CropSettings(size=args.size, smallest=args.smallest, flat=args.flat)
        patterns = read_weights(args.weights) if args.weights else {}
        rows = prepare(folders, args.set, settings, args.workers, patterns)
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
