"""The field's test sets, its two protocols, and opening a set from its folder.

Papers evaluate either on StableSR's centre crops or on whole images. The figures differ (MUSIQ of one method on
DRealSR: 65 and 37), so a set has one protocol, every table names it, and results of two are never put together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dfosd_core.errors import ConfigError
from dfosd_core.files import sha256_of

from ..data.benchmarks import IMAGES
from .pair_files import Sample, pair_files, pair_of
from .pictures import image_size, read_image

PROTOCOLS = {
    "crops": "centre crops as StableSR published them, 128x128 to 512x512",
    "full": "whole images, as in the papers DFOSD and D3SR",
    "own": "own images, not comparable with published figures",
}
IGNORED = ("test_sr_bicubic",)
"""Comes with StableSR's crops; bicubic is computed here."""
SET_FILE = "set.json"
"""What `prepare_benchmark` says about a set it has prepared."""
SCALE = 4
"""Of a set without HR images, as of all benchmarks."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published test set under one protocol."""

    name: str
    protocol: str
    images: int


BENCHMARKS = {
    f"{name}-{protocol}": Benchmark(name=name, protocol=protocol, images=images)
    for protocol, sizes in (("crops", {"RealSR": 100, "DRealSR": 93, "DIV2K-val": 3000}), ("full", IMAGES))
    for name, images in sizes.items()
}


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Files of a set by stem; `hr` is empty for a set without references."""

    __test__ = False  # pytest: this is no test

    folder: Path
    name: str
    protocol: str
    lr: dict[str, Path]
    hr: dict[str, Path]
    note: str = ""

    @property
    def benchmark(self) -> Benchmark | None:
        """What is published about the set; None for the user's own."""
        return next((b for b in BENCHMARKS.values() if (b.name, b.protocol) == (self.name, self.protocol)), None)

    @property
    def is_whole_benchmark(self) -> bool:
        """As many images as the published figures are means of."""
        return self.benchmark is not None and self.benchmark.images == len(self.lr)

    @property
    def caption(self) -> str:
        """What every table says above it."""
        count = f"{len(self.lr)} images"
        if self.benchmark and not self.is_whole_benchmark:
            count = f"{len(self.lr)} of its {self.benchmark.images} images"
        parts = [f"{self.name}, protocol `{self.protocol}` ({PROTOCOLS[self.protocol]}), {count}", self.note]
        return "; ".join(filter(None, parts))

    def read(self, stem: str) -> Sample:
        """A Pair where there is a reference. Raises ConfigError where the sizes do not go together."""
        if self.hr:
            return pair_of(stem, self.lr[stem], self.hr[stem])
        return Sample(name=stem, x_lq=read_image(self.lr[stem]), scale=SCALE)

    def digest(self) -> str:
        """Of names and contents: another set, or a changed one, has another digest."""
        return digest([*self.lr.values(), *self.hr.values()])


def open_set(folder: Path, benchmark: str | None = None) -> TestSet:
    """The set in `folder`. Raises ConfigError if it is none, or does not follow the protocol it is given out for."""
    own = _described(folder)
    if benchmark and own and own["benchmark"] != benchmark:
        raise ConfigError(
            f"'{folder}' was prepared as {own['benchmark']}, found --benchmark {benchmark}. Leave --benchmark out."
        )
    known = BENCHMARKS.get(benchmark or (own or {}).get("benchmark", ""))
    lr, hr = pair_files(folder)
    found = TestSet(
        folder=folder,
        name=known.name if known else folder.resolve().name,
        protocol=known.protocol if known else "own",
        lr=lr,
        hr=hr,
        note=(own or {}).get("note", ""),
    )
    _check_protocol(found)
    return found


def _described(folder: Path) -> dict[str, str] | None:
    path = folder / SET_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"benchmark": str(content["benchmark"]), "note": str(content["note"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is not as prepare_benchmark writes it. Prepare the set again.") from error


def _check_protocol(found: TestSet) -> None:
    """By the sizes in the files' headers."""
    if found.protocol == "own":
        return
    for stem, path in found.lr.items():
        size, hr = image_size(path), image_size(found.hr[stem]) if found.hr else None
        is_crop = size == (128, 128) and hr == (512, 512)
        if found.protocol == "crops" and not is_crop:
            large = f"{hr[0]}x{hr[1]}" if hr else "no HR image"
            raise ConfigError(
                f"The protocol crops has 128x128 and 512x512 images, found '{stem}' with {size[0]}x{size[1]} and "
                f"{large}. Choose the benchmark's protocol full, or give StableSR's crops."
            )
        if found.protocol == "full" and is_crop:
            raise ConfigError(
                f"The protocol full has whole images, found '{stem}' with 128x128 and 512x512, a crop. Choose the "
                "benchmark's protocol crops, or prepare the set from its original folder."
            )


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of the files' names and contents, in the order given."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.stem}\0{sha256_of(path)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
