"""What a call of `dfosd upscale` will do: what it reads and writes, settled before any work."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, ImageFileError, few
from ..files import check_folder, make_folder, reason_of
from ..image_files import FORMATS, format_suffix
from ..settings import RESULT_NAME, UpscaleSettings
from .inputs import Source, find_sources, identity, is_file, is_folder

_NAMED = 5
"""So many files are named in a line, the others counted."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image: read `source`, write `target`."""

    source: Path
    target: Path


@dataclass(kw_only=True)
class Plan:
    """`jobs` to do, in order; `problems` are failures already certain, `notes` are none but worth a line."""

    jobs: list[Job] = field(default_factory=lambda: [])
    problems: list[str] = field(default_factory=lambda: [])
    notes: list[str] = field(default_factory=lambda: [])


def make_plan(
    inputs: Sequence[str],
    output: str | None,
    settings: UpscaleSettings,
    *,
    overwrite: bool,
    form: str | None = None,
    share: tuple[int, int] = (0, 1),
    dry: bool = False,
) -> Plan:
    """A result that exists is a problem for an image that was named alone; of many it is left out, with one note.

    `form`: one of `image_files.FORMAT_NAMES`; None is PNG, or what `output` says. `share`: (number, count) of a process
    that takes every count-th image: which ones does not depend on the results that other processes have written by now.
    `dry`: no folder is made.
    Raises ConfigError for an `output` that makes no sense, ImageFileError if its folder cannot be made.
    """
    alone = len(inputs) == 1 and is_file(inputs[0])
    file = _as_file(output, form)
    found = find_sources(inputs, Path(output) if output and not file else None)
    plan = Plan(problems=found.problems)
    if found.others:
        plan.notes.append(f"{_some(found.others)}: left out, no kind of image that is read.")
    sources = _without_results(found.sources, plan)
    if file and len(sources) > 1:
        raise ConfigError(f"-o {output} names one file, but there are {len(sources)} images. Name a folder instead.")
    if output is not None and sources and not dry:
        make_folder(file.parent if file else Path(output), ImageFileError)
    wanted = [Job(source=sources[0].path, target=file)] if file and sources else _jobs(sources, output, settings, form)
    wanted = list(_open_jobs(wanted, plan, alone=alone, overwrite=overwrite, share=share))
    plan.jobs = wanted if dry else _with_folders(wanted, plan)
    return plan


def _as_file(output: str | None, form: str | None) -> Path | None:
    """What -o names, where that is a file."""
    path = Path(output or "")
    if output is None or is_folder(path) or output.endswith(("/", os.sep)) or not path.suffix:
        return None
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"-o {output}: expected a name ending in {', '.join(FORMATS)}, found '{path.suffix}'. "
            "To name a new folder, end it with a slash."
        )
    if form is not None:
        raise ConfigError(
            f"-o {output} says the format already. Leave --format out, or end a folder's name with a slash."
        )
    return path


def _without_results(sources: list[Source], plan: Plan) -> list[Source]:
    """Leave out what earlier runs have made of the others, at whatever size."""
    names = {(source.path.parent, name) for source in sources for name in (source.path.stem, _stem(source.path))}
    made = [source.path for source in sources if _origin(source.path) in names]
    if made:
        plan.notes.append(f"{_some(made)}: left out, results of earlier runs.")
    return [source for source in sources if source.path not in made]


def _origin(path: Path) -> tuple[Path, str] | None:
    """Folder and stem of the image of which this would be a result."""
    match = RESULT_NAME.fullmatch(path.stem)
    return (path.parent, match[1]) if match and path.suffix.lower() in FORMATS else None


def _stem(path: Path) -> str:
    """With the ending, to tell `a.jpg` from `a.png`."""
    return f"{path.stem}_{path.suffix[1:].lower()}"


def _jobs(sources: list[Source], output: str | None, settings: UpscaleSettings, form: str | None) -> list[Job]:
    """Of inputs that differ by their ending alone, each keeps it in its result's name."""

    def target(source: Source, stem: str) -> Path:
        suffix = format_suffix(form or "png", source.path)
        place = source.path.parent if output is None else Path(output) / source.below
        return place / f"{stem}_{settings.size_name}{suffix}"

    plain = [target(source, source.path.stem) for source in sources]
    times = Counter(identity(path) for path in plain)
    return [
        Job(source=s.path, target=path if times[identity(path)] == 1 else target(s, _stem(s.path)))
        for s, path in zip(sources, plain, strict=True)
    ]


def _open_jobs(wanted: list[Job], plan: Plan, *, alone: bool, overwrite: bool, share: tuple[int, int]) -> Iterator[Job]:
    """Those whose target may be written. Of the others a line goes to the plan."""
    place = existing = 0
    results = {identity(job.target): job.source for job in wanted}
    taken: dict[str, Path] = {}
    for job in wanted:
        source, target = identity(job.source), identity(job.target)
        if source == target:
            plan.problems.append(f"'{job.source}' would be replaced by its own result. Choose another -o.")
        elif source in results:
            plan.notes.append(f"'{job.source}' is left out: it is the result of '{results[source]}'.")
        elif target in taken:
            plan.problems.append(
                f"'{job.source}' would be written to '{job.target}', as '{taken[target]}' is. "
                "Rename one, or upscale them into different folders."
            )
        else:
            taken[target] = job.source
            place += 1
            problem, exists = _look(job, overwrite=overwrite, alone=alone)
            if problem:
                plan.problems.append(problem)
            elif exists:
                existing += 1
            elif (place - 1) % share[1] == share[0]:
                yield job
    if existing:
        plan.notes.append(f"{existing} of {place} results exist and were not touched. Use --overwrite to replace them.")


def _look(job: Job, *, overwrite: bool, alone: bool) -> tuple[str, bool]:
    """(what is wrong with the target, whether it exists and stays)."""
    try:
        exists = job.target.exists()
    except OSError as error:  # a name may be too long for the file system, which counts bytes
        return (
            f"'{job.source}' is not done: its result cannot be called '{job.target.name}': {reason_of(error)}.",
            False,
        )
    if not exists or (overwrite and not job.target.is_dir()):
        return "", False
    if job.target.is_dir() and (overwrite or not alone):
        return f"'{job.target}' is a folder. Choose another -o.", False
    if alone:
        return f"'{job.target}' exists and was not touched. Use --overwrite to replace it.", False
    return "", True


def _with_folders(jobs: list[Job], plan: Plan) -> list[Job]:
    """Make the results' folders, and leave out the jobs whose results could not be written: nothing is computed yet."""
    closed: set[Path] = set()
    for folder in dict.fromkeys(job.target.parent for job in jobs):
        try:
            make_folder(folder, ImageFileError)
            check_folder(folder, ImageFileError)
        except ImageFileError as error:
            closed.add(folder)
            plan.problems.append(f"{error} Not done: {_some([j.source for j in jobs if j.target.parent == folder])}.")
    return [job for job in jobs if job.target.parent not in closed]


def _some(paths: Sequence[Path]) -> str:
    return few([f"'{path}'" for path in paths], _NAMED)
