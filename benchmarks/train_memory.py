"""Memory and time of one training step of Stable Diffusion 2.1's layout.

    python -m benchmarks.train_memory --estimate          # each configs/sd21_*gb.yaml on a card, without one: minutes
    python -m benchmarks.train_memory                     # one crop of 256, bfloat16, on the CPU: 8 GB, some minutes
    python -m benchmarks.train_memory --device cuda --crop 512 --vgg vgg16-397923af.pth

An estimate counts tensors on torch's meta device (`memory_model.py`). Otherwise the weights are random and the step is
taken: generator, then discriminator (NAD), batch of one, with the base in float32 and in bfloat16, and with gradient
checkpointing. Each row has a process of its own, so that a peak is its own. The last line compares the gradients of
first and last row: without `--precision no` the rows differ in nothing else.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfosd_core.training.lora_layers import LoraLayer
from train_tools.loop.recipe import Recipe
from train_tools.settings.config import DataConfig, LossConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from train_tools.settings.config_file import load_config

from .memory_model import MetaNetworks, estimate
from .random_base import write_random_sd21, write_zero_vgg
from .speed import peak_mib
from .train_speed import PHOTOS, build, some_batches

CONFIGS = Path(__file__).parents[1] / "train_tools" / "configs"
CARDS = {"sd21_8gb": 6.5, "sd21_12gb": 10.0, "sd21_24gb": 21.5, "sd21_80gb": 70.0}
"""Configuration -> the peak in GiB that leaves room for CUDA's context, cuDNN and the allocator's fragments."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures."""

    base: Path
    crop: int
    precision: Any
    device: str
    vgg: Path | None
    base_dtype: Any
    checkpointing: bool
    gradients: Path
    """Where it leaves all gradients."""


class Measured(NamedTuple):
    """What it found."""

    seconds: float
    cpu_seconds: float
    """Of all threads: on a busy machine the better figure."""
    rest_mib: float
    """Memory with all networks in place, before the step."""
    peak_mib: float
    """Largest memory during the step."""
    values: dict[str, float]
    """Losses and gradient norms."""


def main() -> None:
    """Parse the command line, measure both ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimate", action="store_true", help="of the configurations, at their own crop and batch")
    parser.add_argument("--crop", type=int, default=256, help="edge of the crop in pixels")
    parser.add_argument("--precision", choices=("bf16", "no"), default="bf16", help="autocast")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--vgg", type=Path, help="VGG16's convolutions: adds EA-DISTS to the loss")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="dfosd-") as folder:
        place = Path(folder)
        if options.pop("estimate"):
            print(_estimates(write_zero_vgg(place / "vgg.safetensors")))
            return
        base = write_random_sd21(place / "base")
        kinds = [("float32", False), ("bfloat16", False), ("bfloat16", True)]
        if options["precision"] == "no":
            kinds = [("float32", False), ("float32", True)]
        cases = [
            Case(**options, base=base, base_dtype=held, checkpointing=on, gradients=place / f"{held}{on}.safetensors")
            for held, on in kinds
        ]
        found: list[Measured] = []
        for case in cases:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found.append(pool.submit(measure, case).result())
        print(_table(cases, found))


def measure(case: Case) -> Measured:
    """Build the networks, take one step."""
    config = TrainConfig(
        model=ModelConfig(base=str(case.base)),
        data=DataConfig(photos=PHOTOS, crop=case.crop, batch_size=1, micro_batch=1, workers=0),
        loss=LossConfig(perceptual="none" if case.vgg is None else "ea_dists", vgg=case.vgg),
        optim=OptimConfig(steps=1, clip=0.0),
        run=RunConfig(precision=case.precision, base_dtype=case.base_dtype, gradient_checkpointing=case.checkpointing),
    )
    recipe, crops = build(config, case.device)
    for learner in recipe.learners().values():
        start_off_zero(learner.network)
    gradients = kept_gradients(recipe)
    batch = next(some_batches(config, crops, 1))
    rest = _start_peak(recipe.device)
    began, began_cpu = time.perf_counter(), time.process_time()
    values = recipe.train_step(0, batch)
    numbers = {name: float(value) for name, value in values.items()}  # waits for the device
    seconds, cpu_seconds, peak = time.perf_counter() - began, time.process_time() - began_cpu, _peak(recipe.device)
    save_file(gradients, case.gradients)
    return Measured(seconds, cpu_seconds, rest, peak, numbers)


def start_off_zero(network: nn.Module) -> None:
    """Give the LoRA's `up` values: zeros would leave every `down` without a gradient to compare."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, LoraLayer):
                layer.up_weight.copy_(torch.randn(layer.up_weight.shape, generator=rng) * 0.02)


def kept_gradients(recipe: Recipe) -> dict[str, Tensor]:
    """Filled with a copy of each network's gradients just before its optimiser's step, on the CPU."""
    kept: dict[str, Tensor] = {}
    for name, learner in recipe.learners().items():

        def keep(
            _optimizer: Any, _args: Any, _kwargs: Any, name: str = name, network: nn.Module = learner.network
        ) -> None:
            for key, parameter in network.named_parameters():
                if parameter.grad is not None:
                    kept[f"{name}.{key}"] = parameter.grad.to("cpu", copy=True).contiguous()

        learner.optimizer.register_step_pre_hook(keep)
    return kept


def _start_peak(device: torch.device) -> float:
    """Forget the peak so far; return the memory now, MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (lever := Path("/proc/self/clear_refs")).exists():
        lever.write_text("5")  # Linux; elsewhere the peak contains the reading of the weights
    return _peak(device)


def _peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_mib()


def _estimates(vgg: Path) -> str:
    """Each configuration's memory as it is, and as it was with a float32 base and checkpointing of the UNets alone."""
    lines = [
        "| configuration | micro-batch | base | checkpointing | between steps, GiB | peak, GiB | of at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, limit in CARDS.items():
        config = load_config(CONFIGS / f"{name}.yaml", [f"loss.vgg={vgg}", "run.base_dtype=bfloat16"])
        checkpointing = config.run.gradient_checkpointing
        rows = [("bfloat16", checkpointing, "UNets, decoder" if checkpointing else "none")]
        if config.data.micro_batch < 8:
            rows = [("float32", False, "none"), ("float32", True, "UNets"), *rows]
        for held, on, words in rows:
            networks = MetaNetworks(
                replace(config, run=replace(config.run, base_dtype=held, gradient_checkpointing=on))
            )
            if words == "UNets":
                networks.base.vae.disable_gradient_checkpointing()
            rest, peak = (size / 2**30 for size in estimate(networks.config, networks))
            now = f"{limit}" if (held, on) == ("bfloat16", checkpointing) else ""
            lines.append(f"| {name} | {config.data.micro_batch} | {held} | {words} | {rest:.2f} | {peak:.2f} | {now} |")
    return "\n".join(lines)


def _table(cases: list[Case], found: list[Measured]) -> str:
    case = cases[0]
    threads = f", {torch.get_num_threads()} threads" if case.device == "cpu" else f", {torch.cuda.get_device_name()}"
    lines = [
        f"One crop of {case.crop}, autocast {case.precision}, {'EA-DISTS' if case.vgg else 'no perceptual term'}; "
        f"{case.device}{threads}, {platform.processor() or platform.machine()}, torch {torch.__version__}",
        "",
        "| base | checkpointing | s | CPU s | MiB before | MiB peak | step's own MiB | "
        + " | ".join(found[0].values)
        + " |",
        "|---" * (7 + len(found[0].values)) + "|",
    ]
    for case, row in zip(cases, found, strict=True):
        numbers = [f"{seconds:.1f}" for seconds in (row.seconds, row.cpu_seconds)]
        numbers += [f"{mib:.0f}" for mib in (row.rest_mib, row.peak_mib, row.peak_mib - row.rest_mib)]
        numbers += [f"{value:.6g}" for value in row.values.values()]
        lines.append(f"| {case.base_dtype} | {'on' if case.checkpointing else 'off'} | " + " | ".join(numbers) + " |")
    return "\n".join([*lines, "", _comparison(cases, found)])


def _comparison(cases: list[Case], found: list[Measured]) -> str:
    """Largest differences between the two runs, in words."""
    plain, checkpointed = (load_file(case.gradients) for case in (cases[0], cases[-1]))
    assert plain.keys() == checkpointed.keys()
    difference = max(float((plain[name] - checkpointed[name]).abs().max()) for name in plain)
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    losses = max(abs(value - found[-1].values[name]) for name, value in found[0].values.items())
    return (
        f"Largest difference of a loss or norm: {losses:.3g}; of one of {sum(g.numel() for g in plain.values()):,} "
        f"gradients: {difference:.3g} (the largest gradient is {largest:.3g})."
    )


if __name__ == "__main__":
    main()
