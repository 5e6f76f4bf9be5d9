"""What `data.photos` names, as one source of crops: a folder of photographs, a prepared set, or several of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from .photos import CropSource, PhotoFolder, Pixels
from .prepared_set import PreparedSet, is_prepared


class WeightedSources:
    """Several sources; a crop comes from one of them with a chance in proportion to its weight."""

    def __init__(self, sources: Sequence[CropSource], weights: Sequence[float]) -> None:
        self.sources = list(sources)
        self.cumulative = np.cumsum(weights) / np.sum(weights)

    def cut(self, rng: np.random.Generator) -> Pixels:
        """Return a random crop."""
        chosen = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        return self.sources[min(chosen, len(self.sources) - 1)].cut(rng)

    def photographs(self) -> dict[str, Path]:
        """Of all sources; of two with one name the first."""
        found: dict[str, Path] = {}
        for source in self.sources:
            found = source.photographs() | found
        return found

    def leave_out(self, names: Collection[str]) -> None:
        """In every source, so that a photograph that two folders have is in neither."""
        for source in self.sources:
            source.leave_out(names)

    def take_unreadable(self) -> dict[str, str]:
        """Of all sources."""
        return {file: reason for source in self.sources for file, reason in source.take_unreadable().items()}

    def refuse_unreadable(self, found: Mapping[str, str]) -> None:
        """Each source knows its own files."""
        for source in self.sources:
            source.refuse_unreadable(found)


def open_source(folders: Mapping[Path, float], size: int) -> CropSource:
    """folders: with their weights. size: of the crops. Raises ConfigError for one that holds nothing of use."""
    sources = [PreparedSet(each, size) if is_prepared(each) else PhotoFolder(each, size) for each in folders]
    return sources[0] if len(sources) == 1 else WeightedSources(sources, list(folders.values()))
