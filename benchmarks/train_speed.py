"""Steps per second of the small configuration: number format, memory layout, worker processes; and where a step goes.

    python -m benchmarks.train_speed                  # some minutes
    python -m benchmarks.train_speed --rounds 1 --steps 5

The step is `configs/small_cpu.yaml`'s with the discriminator at work from the start, on the photographs of this
repository. The variants take turns, each for a few steps, so that a busy moment of the machine hits all of them; a row
is the median of its steps. CPU seconds count what the process itself used, on all its threads.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from train_tools.data.crops import CropDataset, MicroBatch, batches
from train_tools.loop.logbook import timed
from train_tools.loop.networks import Networks
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import TrainConfig
from train_tools.settings.config_file import load_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "train_tools" / "configs" / "small_cpu.yaml"
WARM_UP = 3


class Step(NamedTuple):
    """What one step took, in seconds."""

    wall: float
    """Waiting included."""
    waited: float
    """For its batch."""
    cpu: float


@dataclass
class Variant:
    """One row of the table, its networks built once."""

    precision: Any
    channels_last: bool
    workers: int
    steps: list[Step] = field(default_factory=list[Step])

    def __post_init__(self) -> None:
        self.config = small_config(self.precision, self.channels_last, self.workers)
        self.recipe, self.crops = build(self.config)

    def run(self, steps: int) -> None:
        """Warm up, then measure `steps` steps on new batches."""
        began, measured = cpu_seconds(), list[Step]()
        for waited, batch in timed(some_batches(self.config, self.crops, WARM_UP + steps)):
            wall = time.perf_counter()
            self.recipe.train_step(0, batch)
            now = cpu_seconds()
            measured.append(Step(waited + time.perf_counter() - wall, waited, now - began))
            began = now
        self.steps += measured[WARM_UP:]

    def row(self) -> str:
        """The medians, as a line of a Markdown table."""
        wall, cpu = (statistics.median(getattr(step, name) for step in self.steps) for name in ("wall", "cpu"))
        waited = sum(step.waited for step in self.steps) / sum(step.wall for step in self.steps)
        numbers = "float32" if self.precision == "no" else "bfloat16"
        layout = "channels last" if self.channels_last else "contiguous"
        return f"| {numbers} | {layout} | {self.workers} | {1 / wall:.2f} | {wall:.3f} | {cpu:.3f} | {waited:.1%} |"


def cpu_seconds() -> float:
    """Of this process, without its workers."""
    used = os.times()
    return used.user + used.system


def small_config(precision: Any, channels_last: bool, workers: int) -> TrainConfig:
    """`small_cpu.yaml` with both networks at work from the first step."""
    config = load_config(CONFIG)
    return replace(
        config,
        data=replace(config.data, photos=ROOT / "examples" / "photos" / "train", workers=workers),
        discriminator=replace(config.discriminator, from_step=0, warmup_steps=0),
        run=replace(config.run, precision=precision, channels_last=channels_last),
    )


def build(config: TrainConfig) -> tuple[Recipe, CropDataset]:
    """What moves the networks, and the crops."""
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    networks = Networks(config, accelerator.device)
    return Recipe(config, networks, accelerator), CropDataset.open(config.data, config.run.seed)


def some_batches(config: TrainConfig, crops: CropDataset, steps: int) -> Iterator[list[MicroBatch]]:
    """The first `steps` steps' batches."""
    data = config.data
    return batches(
        crops,
        first_step=0,
        steps=steps,
        batch_size=data.batch_size,
        rank=0,
        world=1,
        micro_batch=data.micro_batch,
        workers=data.workers,
    )


def stages(steps: int) -> list[str]:
    """Where a step of the small configuration goes: a Markdown table of CPU seconds."""
    config = small_config("bf16", True, 0)
    recipe, crops = build(config)
    spent: dict[str, float] = {}
    ready = list(some_batches(config, crops, 1))
    for _ in range(WARM_UP):
        recipe.train_step(0, ready[0])
    with measured_parts(recipe, spent):
        began = cpu_seconds()
        for _ in range(steps):
            recipe.train_step(0, ready[0])
        whole = cpu_seconds() - began
    spent["the rest (losses, noise, reports)"] = whole - sum(spent.values())
    rows = [f"| {name} | {s / steps:.3f} | {s / whole:.0%} |" for name, s in spent.items()]
    return ["| stage of a step | CPU s | share |", "|---|---|---|", *rows, f"| all | {whole / steps:.3f} | |"]


@contextmanager
def measured_parts(recipe: Recipe, spent: dict[str, float]) -> Iterator[None]:
    """Add the CPU seconds of a step's parts to `spent`."""
    generator, discriminator, learner = recipe.networks.generator, recipe.networks.discriminator, recipe.discriminator
    assert discriminator is not None
    assert learner is not None
    parts: list[tuple[str, Any, str]] = [
        ("encode x_lr and x_hr", generator, "encode"),
        ("UNet", generator, "predict"),
        ("decode", generator, "decode"),
        ("NAD, both steps", discriminator, "forward"),
        ("generator's backward", recipe.generator, "backward"),
        ("generator's clipping and AdamW", recipe.generator, "step"),
        ("discriminator's backward", learner, "backward"),
        ("discriminator's clipping and AdamW", learner, "step"),
    ]
    for name, owner, method in parts:
        setattr(owner, method, _measured(getattr(owner, method), name, spent))
    try:
        yield
    finally:
        for _, owner, method in parts:
            delattr(owner, method)  # the class's own shows again


def _measured(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def measured(*args: Any, **options: Any) -> Any:
        began = cpu_seconds()
        result = function(*args, **options)
        spent[name] = spent.get(name, 0.0) + cpu_seconds() - began
        return result

    return measured


def operators(steps: int) -> str:
    """The most expensive operators, as torch's profiler has them."""
    config = small_config("bf16", True, 0)
    recipe, crops = build(config)
    ready = next(some_batches(config, crops, 1))
    recipe.train_step(0, ready)
    with torch.profiler.profile() as profile:
        for _ in range(steps):
            recipe.train_step(0, ready)
    return profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40)


def data_alone(steps: int) -> float:
    """CPU seconds that one process needs for a step's crops."""
    config = small_config("bf16", True, 0)
    crops = CropDataset.open(config.data, config.run.seed)
    spent: list[float] = []
    began = cpu_seconds()
    for _ in some_batches(config, crops, WARM_UP + steps):
        spent.append(cpu_seconds() - began)
        began = cpu_seconds()
    return statistics.median(spent[WARM_UP:])


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="of a variant, in each of its turns")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--profile", action="store_true", help="print torch's operators too")
    args = parser.parse_args(argv)
    print(
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"median of {args.rounds} x {args.steps} steps; load of the machine {os.getloadavg()[0]:.1f}\n"
    )
    variants = [
        Variant(precision, channels_last, workers)
        for precision, channels_last, workers in (
            ("no", False, 0),
            ("no", True, 0),
            ("bf16", False, 0),
            ("bf16", True, 0),
            ("bf16", True, 1),
            ("bf16", True, 2),
        )
    ]
    for _ in range(args.rounds):
        for variant in variants:
            variant.run(args.steps)
    print("| numbers | layout | workers | steps/s | s | CPU s | waiting for data |\n|---|---|---|---|---|---|---|")
    print("\n".join(variant.row() for variant in variants))
    print("\n" + "\n".join(stages(args.steps)))
    print(f"\nA step's crops take one process {data_alone(args.steps):.3f} CPU s.")
    if args.profile:
        print("\n" + operators(args.steps))


if __name__ == "__main__":
    main()
