"""Does memory grow over many images, and is the last result still the first? On the embedded default.

    python -m benchmarks.long_run                                    # 500 images in one process, 200 runs in a pipeline
    python -m benchmarks.long_run --images 200 --runs 0 --sizes 8 48 # images of random sizes

Images go the way of `dfosd upscale FOLDER`: read, computed and written side by side. A run in the pipeline puts the
LoRA on and takes it off again, as a host does. Growth is that of the resident memory from the first tenth on; before
that caches fill. What malloc keeps of freed memory goes up and down by a few percent, and does not count. Exit code 1:
it grew by more than 1 % (of random sizes that is only stated), a last result differs from the first, or the weights
have changed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dfosd_core.allocator import keep_freed_memory
from dfosd_core.cli.conveyor import Outcome
from dfosd_core.cli.plan import Job
from dfosd_core.cli.work import Task, run_task
from dfosd_core.freed_memory import give_back_freed_memory
from dfosd_core.hosts.own import fast_dtype, load_default
from dfosd_core.memory import held_memory
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings

MOST_GROWTH = 0.01
WARM = 10
"""One of so many images is for warming up."""


def resident_bytes() -> int:
    """What the process holds in memory now, without what glibc's malloc keeps of freed memory. Linux only."""
    give_back_freed_memory()
    return held_memory(torch.device("cpu"))


@dataclass
class Course:
    """How memory went, and whether what should be equal was."""

    planned: int
    same: bool = False
    """The last result is the first, bit for bit, and the weights are what they were."""
    marks: list[int] = field(default_factory=list[int])
    """Resident bytes after each."""

    @property
    def growth(self) -> float:
        """Share of the memory that has come since the warm-up."""
        warm = self.marks[max(self.planned // WARM, 1) - 1]
        return self.marks[-1] / warm - 1

    def line(self, name: str, seconds: float) -> str:
        """What a reader needs of it."""
        at = sorted({1, max(self.planned // WARM, 1), self.planned // 2, self.planned} - {0})
        sizes = ", ".join(f"{self.marks[i - 1] / 2**20:.1f} MiB after {i}" for i in at)
        return (
            f"{self.planned} {name}: {sizes}; growth {100 * self.growth:+.2f} %; first and last "
            f"{'equal bit for bit' if self.same else 'DIFFER'}; {seconds:.0f} s of the processor's time"
        )


def run_images(folder: Path, images: int, edges: tuple[int, int]) -> Course:
    """Images of random content and edges through one process of the command; the last one is the first again."""
    rng = np.random.default_rng(0)
    jobs: list[Job] = []
    for number in range(images):
        source = folder / f"{number:04}.png"
        if number == images - 1:
            source.write_bytes(jobs[0].source.read_bytes())
        else:
            height, width = rng.integers(edges[0], edges[1] + 1, 2)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(source)
        jobs.append(Job(source=source, target=folder / f"{number:04}_x4.png"))
    course = Course(images)

    def report(outcome: Outcome) -> None:
        assert outcome.problem is None, outcome.problem
        if outcome.job not in (jobs[0], jobs[-1]):
            outcome.job.target.unlink()
        course.marks.append(resident_bytes())

    run_task(Task(settings=UpscaleSettings(), choice=ModelChoice(device="cpu")), iter(jobs), report, _silent)
    course.same = jobs[0].target.read_bytes() == jobs[-1].target.read_bytes()
    return course


def _silent(_: Job) -> Callable[[object], None]:
    return lambda progress: None


def run_pipeline(runs: int, edge: int) -> Course:
    """Runs of one host; each puts the LoRA on and takes it off. The weights afterwards are compared, too."""
    host, lora = load_default(fast_dtype("cpu"), "cpu")
    images = torch.rand(4, 1, edge, edge, 3, generator=torch.Generator().manual_seed(0))
    before = [weight.clone() for net in (host.unet, host.vae) for weight in net.state_dict().values()]
    course, first = Course(runs), None
    for run in range(runs):
        result = upscale(images[0 if run == runs - 1 else run % 4], host, lora)
        first = result if first is None else first
        course.same = torch.equal(first, result)
        course.marks.append(resident_bytes())
    after = [weight for net in (host.unet, host.vae) for weight in net.state_dict().values()]
    course.same &= all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return course


def main() -> int:
    """Parse the command line, run, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="0: none")
    parser.add_argument("--runs", type=int, default=200, help="0: none")
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=(32, 32), metavar=("LEAST", "MOST"), help="edges in pixels"
    )
    args = parser.parse_args()
    keep_freed_memory()  # as our programs do; then `resident_bytes` gives it back, also with --images 0
    courses: list[Course] = []
    for planned, name, work in (
        (args.images, f"images of {args.sizes[0]} to {args.sizes[1]} pixels", _images_of(args)),
        (args.runs, "runs in one pipeline", lambda: run_pipeline(args.runs, args.sizes[1])),
    ):
        if planned:
            began = time.process_time()
            courses.append(work())
            print(courses[-1].line(name, time.process_time() - began), flush=True)
    grows = args.sizes[0] == args.sizes[1] and any(course.growth > MOST_GROWTH for course in courses)
    return 1 if grows or not all(course.same for course in courses) else 0


def _images_of(args: argparse.Namespace) -> Callable[[], Course]:
    def work() -> Course:
        with tempfile.TemporaryDirectory(prefix="dfosd-") as folder:
            return run_images(Path(folder), args.images, tuple(args.sizes))

    return work


if __name__ == "__main__":
    sys.exit(main())
