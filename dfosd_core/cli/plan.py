"""What a call of `dfosd upscale` will do: what it reads and writes, settled before any work."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, ImageFileError
from ..files import make_folder, reason_of
from ..image_files import FORMATS, READABLE_SUFFIXES, is_image_name
from ..settings import UpscaleSettings


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
    share: tuple[int, int] = (0, 1),
    dry: bool = False,
) -> Plan:
    """A result that exists is a problem for an image that was named alone; of many it is left out, with one note.

    `share`: (number, count) of a process that takes every count-th image: which ones does not depend on the results
    that other processes have written by now. `dry`: the output's folder is not made.
    Raises ConfigError for an `output` that makes no sense, ImageFileError if its folder cannot be made.
    """
    alone = len(inputs) == 1 and Path(inputs[0]).is_file()
    place = existing = 0
    plan = Plan()
    sources = list({_identity(path): path for path in _expand(inputs, plan.problems)}.values())
    wanted = [Job(source=source, target=_target(source, output, settings, len(sources))) for source in sources]
    if output is not None and wanted and not dry:
        make_folder(wanted[0].target.parent, ImageFileError)
    results = {_identity(job.target): job.source for job in wanted}
    taken: dict[Path, Path] = {}
    for job in _possible(wanted, plan.problems):
        source, target = _identity(job.source), _identity(job.target)
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
            if job.target.is_dir() and (overwrite or not alone):
                plan.problems.append(f"'{job.target}' is a folder. Choose another -o.")
            elif not os.path.lexists(job.target) or overwrite:
                plan.jobs += [job] if (place - 1) % share[1] == share[0] else []
            elif alone:
                plan.problems.append(f"'{job.target}' exists and was not touched. Use --overwrite to replace it.")
            else:
                existing += 1
    if existing:
        plan.notes.append(f"{existing} of {place} results exist and were not touched. Use --overwrite to replace them.")
    return plan


def _expand(inputs: Iterable[str], problems: list[str]) -> Iterator[Path]:
    """The inputs' files, in order; what yields none is added to `problems`."""
    for text in inputs:
        try:
            yield from _files_of(text)
        except ImageFileError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"'{text}' cannot be read: {error.strerror or error}.")


def _files_of(text: str) -> list[Path]:
    """One input's files. Windows' shells leave patterns to the program, so they are expanded here as well."""
    path = Path(text)
    if path.is_dir():
        found = sorted(path.iterdir())
        problem = f"There is no image in the folder '{path}' ({', '.join(READABLE_SUFFIXES)})."
    elif path.is_file():
        return [path]
    elif os.path.lexists(path):
        raise ImageFileError(f"'{path}' is no file that can be read to its end, but a pipe, a device or a broken link.")
    elif glob.has_magic(text):
        found, problem = map(Path, sorted(glob.glob(text, recursive=True))), f"No image matches '{text}'."
    else:
        raise ImageFileError(f"There is no file or folder '{path}'.")
    images = [match for match in found if is_image_name(match) and match.is_file()]
    if not images:
        raise ImageFileError(problem)
    return images


def _identity(path: Path) -> Path:
    return Path(os.path.normcase(os.path.realpath(path)))  # Path.resolve raises over links in a circle


def _possible(jobs: Iterable[Job], problems: list[str]) -> Iterator[Job]:
    """Those whose results can be called so, on this file system; the others are added to `problems`."""
    for job in jobs:
        try:
            job.target.is_dir()
        except OSError as error:
            problems.append(f"'{job.source}' cannot be written to '{job.target}': {reason_of(error)}.")
        else:
            yield job


def _target(source: Path, output: str | None, settings: UpscaleSettings, sources: int) -> Path:
    name = f"{source.stem}_{settings.size_name}.png"
    if output is None:
        return source.with_name(name)
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)) or not path.suffix:
        return path / name
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"-o {output}: expected a name ending in {', '.join(FORMATS)}, found '{path.suffix}'. "
            "To name a new folder, end it with a slash."
        )
    if sources > 1:
        raise ConfigError(f"-o {output} names one file, but there are {sources} images. Name a folder instead.")
    return path
