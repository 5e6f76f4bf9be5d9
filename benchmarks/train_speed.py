"""Steps per second of the small configuration: number format, memory layout, worker processes; and where a step goes.

    python -m benchmarks.train_speed                  # some minutes
    python -m benchmarks.train_speed --rounds 1 --steps 5
    python -m benchmarks.train_speed --compile        # run.compile off and on: minutes before the first step
    python -m benchmarks.train_speed --compile --set data.crop=192 loss.perceptual=ea_dists loss.vgg=vgg16-397923af.pth

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

from train_tools.data.crops import CropDataset, MicroBatch, MicroBatchSampler, batches
from train_tools.loop.logbook import timed
from train_tools.loop.networks import Networks
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import TrainConfig
from train_tools.settings.config_file import load_config

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos" / "train"
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
    compiled: bool = False
    settings: Sequence[str] = ()
    """As after `--set`."""
    steps: list[Step] = field(default_factory=list[Step])

    def __post_init__(self) -> None:
        config = small_config(self.precision, self.channels_last, self.workers, self.settings)
        self.config = replace(config, run=replace(config.run, compile=self.compiled))
        self.recipe, self.crops = build(self.config)
        self.first: Step | None = None
        """Before all others, with the compiler's time."""

    def run(self, steps: int) -> None:
        """Warm up, then measure `steps` steps on new batches."""
        began, measured = time.process_time(), list[Step]()
        for waited, batch in timed(some_batches(self.config, self.crops, WARM_UP + steps)):
            wall = time.perf_counter()
            self.recipe.train_step(0, batch)
            now = time.process_time()
            measured.append(Step(waited + time.perf_counter() - wall, waited, now - began))
            began = now
        self.first = self.first or measured[0]
        self.steps += measured[WARM_UP:]

    def row(self) -> str:
        """The medians, as a line of a Markdown table."""
        wall, cpu = (statistics.median(getattr(step, name) for step in self.steps) for name in ("wall", "cpu"))
        waited = sum(step.waited for step in self.steps) / sum(step.wall for step in self.steps)
        numbers = "float32" if self.precision == "no" else "bfloat16"
        layout = "channels last" if self.channels_last else "contiguous"
        layout += ", compiled" if self.compiled else ""
        return f"| {numbers} | {layout} | {self.workers} | {1 / wall:.2f} | {wall:.3f} | {cpu:.3f} | {waited:.1%} |"


def small_config(
    precision: Any = "bf16", channels_last: bool = True, workers: int = 0, settings: Sequence[str] = ()
) -> TrainConfig:
    """`small_cpu.yaml` with both networks at work from the first step."""
    config = load_config(CONFIG, list(settings))
    return replace(
        config,
        data=replace(config.data, photos=PHOTOS, workers=workers),
        discriminator=replace(config.discriminator, from_step=0, warmup_steps=0),
        run=replace(config.run, precision=precision, channels_last=channels_last),
    )


def build(config: TrainConfig, device: str = "cpu") -> tuple[Recipe, CropDataset]:
    """What moves the networks, and the crops."""
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    networks = Networks(config, accelerator.device)
    return Recipe(config, networks, accelerator), CropDataset.open(config.data, config.run.seed)


def some_batches(config: TrainConfig, crops: CropDataset, steps: int) -> Iterator[list[MicroBatch]]:
    """The first `steps` steps' batches."""
    data = config.data
    sampler = MicroBatchSampler(steps=steps, batch_size=data.batch_size, micro_batch=data.micro_batch)
    return batches(crops, sampler, data.workers)


def stages(steps: int) -> list[str]:
    """Where a step of the small configuration goes: a Markdown table of CPU seconds."""
    config = small_config()
    recipe, crops = build(config)
    batch = next(some_batches(config, crops, 1))
    spent: dict[str, float] = {}
    for _ in range(WARM_UP):
        recipe.train_step(0, batch)
    with measured_parts(recipe, spent):
        began = time.process_time()
        for _ in range(steps):
            recipe.train_step(0, batch)
        whole = time.process_time() - began
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
        ("encode x_lr and x_hr", generator.vae, "encode"),
        ("UNet", generator, "predict"),
        ("decode", generator, "decode"),
        ("NAD, both steps", discriminator, "forward"),
        ("generator's backward", recipe.generator, "backward"),
        ("generator's clipping and AdamW", recipe.generator, "step"),
        ("discriminator's backward", learner, "backward"),
        ("discriminator's clipping and AdamW", learner, "step"),
    ]
    for name, owner, method in parts:
        spent[name] = 0.0  # in this order; what stays 0 is not called any more
        setattr(owner, method, _measured(getattr(owner, method), name, spent))
    try:
        yield
    finally:
        for _, owner, method in parts:
            delattr(owner, method)  # the class's own shows again


def _measured(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def measured(*args: Any, **options: Any) -> Any:
        began = time.process_time()
        result = function(*args, **options)
        spent[name] += time.process_time() - began
        return result

    return measured


def operators(steps: int) -> str:
    """The most expensive operators, as torch's profiler has them."""
    config = small_config()
    recipe, crops = build(config)
    batch = next(some_batches(config, crops, 1))
    recipe.train_step(0, batch)
    with torch.profiler.profile() as profile:
        for _ in range(steps):
            recipe.train_step(0, batch)
    return profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40)


def data_alone(steps: int) -> float:
    """CPU seconds that one process needs for a step's crops."""
    config = small_config()
    crops, spent = CropDataset.open(config.data, config.run.seed), list[float]()
    began = time.process_time()
    for _ in some_batches(config, crops, WARM_UP + steps):
        spent.append(time.process_time() - began)
        began = time.process_time()
    return statistics.median(spent[WARM_UP:])


def in_turns(variants: Sequence[Variant], steps: int, rounds: int) -> str:
    """A Markdown table of all variants."""
    for _ in range(rounds):
        for variant in variants:
            variant.run(steps)
    heading = "| numbers | layout | workers | steps/s | s | CPU s | waiting for data |\n|---|---|---|---|---|---|---|"
    return "\n".join([heading, *(variant.row() for variant in variants)])


def compiled_or_not(steps: int, rounds: int, settings: Sequence[str]) -> str:
    """The step of `run.compile` off and on, and what the first compiled one took."""
    eager, compiled = (Variant("bf16", True, 0, on, settings) for on in (False, True))
    table = in_turns((eager, compiled), steps, rounds)
    assert compiled.first is not None
    return f"{table}\n\nThe first compiled step took {compiled.first.wall:.0f} s, {compiled.first.cpu:.0f} CPU s."


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="of a variant, in each of its turns")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--profile", action="store_true", help="print torch's operators too")
    parser.add_argument("--compile", action="store_true", help="run.compile off and on, and nothing else")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="A.B=VALUE", help="with --compile")
    args = parser.parse_args(argv)
    print(
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"median of {args.rounds} x {args.steps} steps; load of the machine {os.getloadavg()[0]:.1f}\n"
    )
    if args.compile:
        print(compiled_or_not(args.steps, args.rounds, args.set))
        return
    variants = [
        Variant(precision, channels_last, workers)
        for precision in ("no", "bf16")
        for channels_last in (False, True)
        for workers in ((0, 1, 2) if precision == "bf16" and channels_last else (0,))
    ]
    print(in_turns(variants, args.steps, args.rounds))
    print("\n" + "\n".join(stages(args.steps)))
    print(f"\nA step's crops take one process {data_alone(args.steps):.3f} CPU s.")
    if args.profile:
        print("\n" + operators(args.steps))


if __name__ == "__main__":
    main()
