"""The scores of a run, one JSON line an image, written as they come: a run that was stopped goes on from them.

    {"run": {...}}                                          what was measured and how; all lines below belong to it
    {"method": "DFOSD", "settings": {...}, "folder": ...}   what made its images (hashes of weights or of the images)
    {"method": "DFOSD", "image": "a", "scores": {...}}
    {"method": "DFOSD", "images": 100, "scores": {"FID": ...}}

Lines of other weights, settings, images or another protocol are refused, so no mean mixes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfosd_core.errors import ConfigError
from dfosd_core.files import write_whole

from .metrics import Scores


class ScoreFile:
    """The file at `path`, made if it is not there.

    run: protocol, set and metrics, as JSON has them.
    Raises ConfigError, one line, where the file is of another run or no such file.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self.scores: dict[str, dict[str, Scores]] = {}
        """{method: {image: scores}}"""
        self.set_scores: dict[str, Scores] = {}
        """{method: scores of all its images together}"""
        self.folders: dict[str, Path] = {}
        """{method: where its images are}"""
        self.settings: dict[str, Any] = {}
        """{method: what made its images}"""
        if path.exists():
            self._read(run)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as file:
                file.write(_line({"run": run}))

    def start(self, method: str, settings: Mapping[str, Any], folder: Path) -> None:
        """Declare a method before its scores. Raises ConfigError if the file has it with other settings."""
        if method not in self.settings:
            self._append({"method": method, "settings": settings, "folder": str(folder.resolve())})
            self.settings[method], self.scores[method] = settings, {}
        elif found := _difference(self.settings[method], settings):
            raise self._other(f"scores of {method} with {found}")
        self.folders[method] = folder

    def add(self, method: str, image: str, scores: Scores) -> None:
        """Keep the scores of an image; they are in the file when this returns."""
        self._append({"method": method, "image": image, "scores": scores})
        self.scores[method][image] = scores

    def add_set(self, method: str, images: int, scores: Scores) -> None:
        """Keep the scores of all images of a method together."""
        self._append({"method": method, "images": images, "scores": scores})
        self.set_scores[method] = scores

    def _append(self, content: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(_line(content))

    def _read(self, run: Mapping[str, Any]) -> None:
        whole, _, torn = self.path.read_bytes().rpartition(b"\n")
        try:
            lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
            if found := _difference(lines[0]["run"], run):
                raise self._other(found)
            for line in lines[1:]:
                self._take(line)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"'{self.path}' is not a file of scores. Choose another --out.") from error
        if torn:  # a kill in the middle of a line
            with write_whole(self.path) as file:
                file.write(whole + b"\n")

    def _take(self, line: Mapping[str, Any]) -> None:
        method = line["method"]
        if "image" in line:
            self.scores[method][line["image"]] = line["scores"]
        elif "images" in line:
            self.set_scores[method] = line["scores"]
        else:
            self.settings[method], self.scores[method] = line["settings"], {}
            self.folders[method] = Path(line["folder"])

    def _other(self, found: str) -> ConfigError:
        return ConfigError(f"'{self.path}' holds {found}. Results are not mixed: choose another --out, or remove it.")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first entry in which they differ, in words; empty if there is none."""
    new = json.loads(_line(new))
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            return f"{key} {_short(old.get(key))}, not {_short(new.get(key))}"
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content) + "\n").encode()
