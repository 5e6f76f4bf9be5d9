"""Which images the arguments of `dfosd upscale` mean: files, folders with all that is below them, patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files import reason_of
from ..image_files import READABLE_SUFFIXES, is_image_name

_OF_PROGRAMS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
"""What file managers put between people's files, in lower case."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image, and the subfolder of the output's folder to which its result belongs."""

    path: Path
    below: Path = Path()


@dataclass(kw_only=True)
class Found:
    """`problems` are inputs that yield nothing, `others` files beside the images that are none."""

    sources: list[Source] = field(default_factory=lambda: [])
    problems: list[str] = field(default_factory=lambda: [])
    others: list[Path] = field(default_factory=lambda: [])


def find_sources(inputs: Sequence[str], output: Path | None) -> Found:
    """The images of all `inputs`, each once, in order. Nothing is opened.

    `output`: a folder that is passed by where it lies below one of the inputs, since results go there.
    """
    found = Found()
    for text in inputs:
        _find(text, output, found)
    found.sources = list({identity(source.path): source for source in reversed(found.sources)}.values())[::-1]
    return found


def identity(path: Path) -> str:
    """The same for the same file, however it was named. A circle of links has one too."""
    return os.path.normcase(os.path.realpath(path))


def is_folder(path: str | Path) -> bool:
    """As `Path.is_dir`, which raises OSError for names that are too long."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | Path) -> bool:
    """As `Path.is_file`, which raises OSError for names that are too long."""
    return os.path.isfile(path)  # noqa: PTH113


def _find(text: str, output: Path | None, found: Found) -> None:
    """One input's files. Windows' shells leave patterns to the program, so they are expanded here as well."""
    path, before = Path(text), len(found.sources) + len(found.problems)
    if is_folder(path):
        _walk(path, output, found)
        problem = f"There is no image in the folder '{path}' ({', '.join(READABLE_SUFFIXES)})."
    elif os.path.lexists(path):  # a link that leads nowhere is named when it is read
        found.sources.append(Source(path=path))
        return
    elif glob.has_magic(text):
        top = _before_pattern(path)
        images = [Path(match) for match in sorted(glob.glob(text, recursive=True)) if is_image_name(Path(match))]
        found.sources += [
            Source(path=each, below=each.parent.relative_to(top)) for each in images if not is_folder(each)
        ]
        problem = f"No image matches '{text}'."
    else:
        problem = f"There is no file or folder '{path}'."
    if len(found.sources) + len(found.problems) == before:
        found.problems.append(problem)


def _walk(top: Path, output: Path | None, found: Found) -> None:
    """All images below `top`. Links to folders are followed, and no folder is entered twice."""
    entered, waiting, images = {identity(top)}, [top], list[Path]()
    passed_by = identity(output) if output else None
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            found.problems.append(f"The folder '{folder}' cannot be read: {reason_of(error)}.")
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _OF_PROGRAMS:
                continue
            if is_folder(entry):
                if (known := identity(entry)) not in entered and known != passed_by:
                    entered.add(known)
                    waiting.append(entry)
            elif is_image_name(entry):
                images.append(entry)
            else:
                found.others.append(entry)
    found.sources += [Source(path=image, below=image.parent.relative_to(top)) for image in sorted(images)]


def _before_pattern(path: Path) -> Path:
    """The folder that all matches of a pattern are below."""
    plain: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)
