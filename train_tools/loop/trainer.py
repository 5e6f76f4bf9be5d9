"""One training run, from top to bottom: set up, fit, validate, save. What a step computes is `recipe.py`'s."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import NoReturn, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.lora.file import DfosdLora, save_lora

from ..data.crops import CropDataset, MicroBatch, MicroBatchSampler, batches
from ..scoring.validation import Validator
from ..settings.config import TrainConfig, plain_config
from ..settings.resume_policy import best_still_counts
from .checkpoint import CHECKPOINT, State, random_states, restore_random_states, write_checkpoint
from .degraded_sheet import write_degraded_sheet
from .export import base_sha256, lora_metadata
from .logbook import Logbook, Meter, timed
from .networks import Networks, base_path, make_dists
from .recipe import Recipe

LAST_LORA, BEST_LORA = "last.safetensors", "best.safetensors"


class DivergedError(DfosdError):
    """A loss or a gradient is no longer a number."""


class Trainer:
    """A run in `config.run.out`; only the main process writes there. state: a checkpoint to go on from.

    Raises ConfigError, in one line, for whatever does not fit together.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, state: State | None = None) -> None:
        self.config, self.accelerator, self.out = config, accelerator, config.run.out
        self.is_main = accelerator.is_main_process
        _refuse(config, accelerator)
        self.crops = CropDataset.open(config.data, config.run.seed)
        self.networks = Networks(config, accelerator.device)
        self.recipe = Recipe(config, self.networks, accelerator)
        self.meter = Meter()
        self.step = 0
        """Steps done."""
        self.saved_step: int | None = None
        self.best: tuple[int, float] | None = None
        """Step and score of the best LoRA; a higher score is better."""
        if state is not None:
            self._load(state)
        self.base_sha256 = base_sha256(base_path(config)) if self.is_main else ""
        self.logbook = Logbook(self.out, self.step) if self.is_main else None
        self.validator = self._make_validator()
        if state is not None:
            self._export()  # a kill may have come between checkpoint and LoRA

    def fit(self) -> int | None:
        """Train to the last step. Return the signal that stopped the run before it, None without one."""
        steps, stopping = self.config.optim.steps, False
        if self.is_main and self.step == 0:
            write_degraded_sheet(self.crops, self.out)
        bar = tqdm(total=steps, initial=self.step, disable=not self.is_main, unit="step", dynamic_ncols=True)
        with noted_signals() as signals, bar:
            for waited_s, micro_batches in timed(self.batches()):
                began = time.perf_counter()
                values = self.recipe.train_step(self.step, micro_batches)
                report, stopping = self._share(values, stopping=bool(signals))
                self.step += 1
                step_s = waited_s + time.perf_counter() - began
                self.meter.add(report | {"time/data_s": waited_s, "time/step_s": step_s})
                bar.update()
                self._after_step(bar, stopping)
                if stopping:
                    break
        if self.logbook:
            self.logbook.close()
        return signals[0] if stopping and self.step < steps else None

    def batches(self) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches of each step that is left."""
        data, accelerator = self.config.data, self.accelerator
        sampler = MicroBatchSampler(
            steps=self.config.optim.steps,
            batch_size=data.batch_size,
            micro_batch=data.micro_batch,
            first_step=self.step,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        return batches(self.crops, sampler, data.workers)

    def lora(self) -> DfosdLora:
        """What a user would get now, averaged where the run averages."""
        networks = self.networks
        metadata = lora_metadata(self.config, networks.base.layout, self.step, self.base_sha256, networks.start)
        with self.recipe.ema.applied() if self.recipe.ema else nullcontext():
            return self.networks.generator.export_lora(metadata, torch.float16)

    def _after_step(self, bar: tqdm[NoReturn], stopping: bool) -> None:
        """Log, validate, save: in this order, so that a checkpoint never knows less than the log."""
        run, validation, last = self.config.run, self.config.validation, self.step == self.config.optim.steps
        validating = validation.pairs is not None and (last or self.step % validation.every == 0)
        if last or self.step % run.log_every == 0:
            bar.set_postfix_str(self._log())
        if validating:
            self._validate(bar)
        if validating or last or stopping or self.step % run.checkpoint_every == 0:
            self._save()

    def _share(self, values: dict[str, Tensor], stopping: bool) -> tuple[dict[str, float], bool]:
        """The means over all processes, and whether any is to stop: so all do. Raises DivergedError if not finite."""
        request = torch.tensor(float(stopping), device=self.accelerator.device)
        stacked = torch.stack([*(value.float() for value in values.values()), request])
        reduced = cast("Tensor", self.accelerator.reduce(stacked, "mean"))
        *means, requests = reduced.tolist()  # the step's one wait for the device
        shared = dict(zip(values, means, strict=True))
        self._refuse_divergence(shared)
        return shared, requests > 0

    def _refuse_divergence(self, values: dict[str, float]) -> None:
        scaled = self.config.run.precision == "fp16"  # then the scaler skips a step whose gradients overflow
        for name, value in values.items():
            if math.isfinite(value) or (scaled and name.startswith("grad/")):
                continue
            of_discriminator = name.split("/")[1] in ("discriminator", "d_real", "d_fake")
            network, rate = ("discriminator", "discriminator.lr") if of_discriminator else ("generator", "optim.lr")
            kept = "there is no checkpoint yet"
            if self.saved_step is not None:
                kept = f"the last good checkpoint is '{self.out / CHECKPOINT}' of step {self.saved_step}"
            raise DivergedError(
                f"Step {self.step + 1}: {name} of the {network} is {value}. Nothing was written; {kept}. "
                f"Lower {rate} and start again."
            )

    def _log(self) -> str:
        """Write the means since the last line; return the losses for the progress bar."""
        values = self.meter.take_means()
        losses = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}
        if self.logbook:
            rates = {f"lr/{name}": learner.lr for name, learner in self.recipe.learners().items()}
            self.logbook.log(self.step, values | rates)
        return " ".join(f"{name} {value:.4f}" for name, value in losses.items())

    def _make_validator(self) -> Validator | None:
        config, base = self.config, self.networks.base
        if config.validation.pairs is None or not self.is_main:
            return None
        dists = make_dists(config, torch.float32)  # as `evaluate` has it, whatever the training's precision
        if dists is not None:
            dists.to(self.accelerator.device)
        return Validator(config.validation, base.unet, base.vae, base.layout, dists, self.out)

    def _validate(self, bar: tqdm[NoReturn]) -> None:
        if self.validator and self.logbook:
            scores = self.validator.run(self.lora(), self.step)
            rows = {f"val/{name}": value for name, value in scores.items()}
            rows |= {f"bicubic/{name}": value for name, value in self.validator.bicubic.items()}
            self.logbook.log(self.step, rows)
            self.logbook.images(self.step, "validation", self.validator.sheet)
            bar.write(f"Step {self.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
            metric = self.config.validation.best_by
            score = -scores[metric] if metric == "DISTS" else scores[metric]
            if self.best is None or score > self.best[1]:
                self.best = (self.step, score)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        """The checkpoint, then the LoRAs that follow from it: after a kill between them `_export` is done again."""
        if self.is_main:
            write_checkpoint(self.out, self._state())
        self._export()
        self.saved_step = self.step
        self.accelerator.wait_for_everyone()

    def _export(self) -> None:
        if self.is_main:
            save_lora(self.out / LAST_LORA, self.lora())
            if self.best is not None and self.best[0] == self.step:
                save_lora(self.out / BEST_LORA, self.lora())

    def _state(self) -> State:
        own = {"step": self.step, "best": self.best, "meter": self.meter.values, "random": random_states()}
        return own | {"config": plain_config(self.config)} | self.recipe.state()

    def _load(self, state: State) -> None:
        self.recipe.load(state)
        self.step, self.meter.values = state["step"], state["meter"]
        self.best = state["best"] if best_still_counts(state["config"], self.config) else None
        self.saved_step = self.step
        restore_random_states(state["random"])


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Inside the `with` block the first SIGINT or SIGTERM is noted in the list; a second one acts as ever.

    So it is a request that the run follows after its step, not an exception in the middle of one.
    """
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def _refuse(config: TrainConfig, accelerator: Accelerator) -> None:
    world, batch_size = accelerator.num_processes, config.data.batch_size
    if batch_size % world:
        raise ConfigError(
            f"data.batch_size: expected a multiple of the number of processes ({world}), found {batch_size}."
        )
    if config.run.precision == "fp16" and accelerator.device.type != "cuda":
        raise ConfigError("run.precision: fp16 needs a CUDA device, found none. Set bf16 or no.")
