"""One training run, from top to bottom: set up, fit, validate, save. What a step computes is `recipe.py`'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.files import reason_of
from dfosd_core.lora.file import DfosdLora, save_lora

from ..data.crops import CropDataset, MicroBatch, MicroBatchSampler, batches
from ..scoring.validation import Validator
from ..settings.config import TrainConfig, plain_config
from ..settings.resume_policy import best_still_counts
from .checkpoint import (
    CHECKPOINT,
    State,
    earlier_checkpoints,
    random_states,
    restore_random_states,
    write_checkpoint,
)
from .degraded_sheet import write_degraded_sheet
from .export import base_sha256, lora_metadata
from .held_out import FOLDER, names_set_aside, pairs_of, set_aside
from .logbook import Logbook, Meter, timed
from .networks import Networks, base_path
from .progress import Progress
from .recipe import Recipe
from .stopping import DivergedError, NotSavedError, first_not_finite, network_of, noted_signals
from .validating import best_score, make_validator
from .wandb_board import WandbBoard

LAST_LORA, BEST_LORA = "last.safetensors", "best.safetensors"


class Trainer:
    """A run in `config.run.out`; only the main process writes there. state: a checkpoint to go on from.

    say: gets the lines that the user should read. Raises ConfigError, in one line, for whatever does not fit together.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        state: State | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.config, self.accelerator, self.out, self.say = config, accelerator, config.run.out, say
        self.is_main = accelerator.is_main_process
        _refuse(config, accelerator)
        self.crops = CropDataset.open(config.data, config.run.seed)
        self.held_out = self._hold_out(state)
        """Names of the photographs that no crop comes from."""
        self.networks = Networks(config, accelerator.device)
        self.recipe = Recipe(config, self.networks, accelerator)
        self.meter = Meter()
        self.progress: Progress | None = None
        self.step = 0
        """Steps done."""
        self.saved_step: int | None = None
        self.best: tuple[int, float] | None = None
        """Step and score of the best LoRA; a higher score is better."""
        if state is not None:
            self._load(state)
        self.base_sha256 = base_sha256(base_path(config)) if self.is_main else ""
        self.logbook = self._open_logbook() if self.is_main else None
        self.validator: Validator | None = None
        if self.pairs is not None and self.is_main:
            self.validator = make_validator(config, self.networks.base, self.pairs, accelerator.device, say)
        if state is not None:
            self._export()  # a kill may have come between checkpoint and LoRA

    def fit(self) -> int | None:
        """Train to the last step. Return the signal that stopped the run before it, None without one.

        Raises DivergedError and NotSavedError, in one line, with the checkpoint there is to go on from.
        """
        steps, stopping = self.config.optim.steps, False
        progress = self.progress = Progress(steps, self.step, shown=self.is_main)
        with noted_signals() as signals, closing(progress):
            self._judge_start()
            if self.is_main and self.step == 0:
                with self._writing():
                    write_degraded_sheet(self.crops, self.out)
            for waited_s, micro_batches in timed(self.batches()):
                began = time.perf_counter()
                values = self.recipe.train_step(self.step, micro_batches)
                report, stopping = self._share(values, stopping=bool(signals))
                self._stop_if_diverged(report)
                self.step += 1
                step_s = waited_s + time.perf_counter() - began
                self.meter.add(report | {"time/data_s": waited_s, "time/step_s": step_s})
                with self._writing():
                    self._after_step(stopping)
                progress.step()
                if stopping:
                    break
        if self.logbook:
            with self._writing():
                self.logbook.close()
        return signals[0] if stopping and self.step < steps else None

    def _judge_start(self) -> None:
        """What the run starts from, as the first point of the curves; and whether OUT can be written shows at once."""
        if self.step == 0 and self.pairs is not None:
            with self._writing():
                self._validate()
                self._save()

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
        return batches(self.crops, sampler, data.workers, self._tell)

    def lora(self) -> DfosdLora:
        """What a user would get now, averaged where the run averages."""
        networks = self.networks
        metadata = lora_metadata(self.config, networks.base.layout, self.step, self.base_sha256, networks.start)
        with self.recipe.ema.applied() if self.recipe.ema else nullcontext():
            return self.networks.generator.export_lora(metadata, torch.float16)

    def _hold_out(self, state: State | None) -> list[str]:
        """Set photographs aside at the run's start, and take no crop from them at any."""
        if state is None and self.is_main and (note := set_aside(self.config, self.crops.source)):
            self.say(note)
        self.accelerator.wait_for_everyone()
        names = sorted({*names_set_aside(self.out), *(state or {}).get("held_out", [])})
        self.crops.source.leave_out(names)
        self.pairs = pairs_of(self.config)
        if state is not None and self.pairs is None and self.config.validation.count:
            self.say(f"No validation: there is no '{self.out / FOLDER}', which is made at a run's start only.")
        return names

    def _open_logbook(self) -> Logbook:
        project, wandb = self.config.run.wandb, None
        if project is not None:
            wandb = WandbBoard(project, self.out, plain_config(self.config), resumes=self.step > 0)
        return Logbook(self.out, self.step, wandb)

    def _after_step(self, stopping: bool) -> None:
        """Log, validate, save: in this order, so that a checkpoint never knows less than the log."""
        run, validation, last = self.config.run, self.config.validation, self.step == self.config.optim.steps
        validating = self.pairs is not None and (last or self.step % validation.every == 0)
        if last or self.step % run.log_every == 0:
            self._log()
        if validating:
            self._validate()
        if validating or last or stopping or self.step % run.checkpoint_every == 0:
            self._save()

    def _share(self, values: dict[str, Tensor], stopping: bool) -> tuple[dict[str, float], bool]:
        """The means over all processes, and whether any is to stop: so all do."""
        request = torch.tensor(float(stopping), device=self.accelerator.device)
        stacked = torch.stack([*(value.float() for value in values.values()), request])
        reduced = cast("Tensor", self.accelerator.reduce(stacked, "mean"))
        *means, requests = reduced.tolist()  # the step's one wait for the device
        return dict(zip(values, means, strict=True)), requests > 0

    def _stop_if_diverged(self, values: dict[str, float]) -> None:
        """Save and raise DivergedError where a value is not finite: `Learner.step` has left such an update out."""
        name = first_not_finite(values, loss_scaling=self.config.run.precision == "fp16")
        if name is None:
            return
        if self.saved_step != self.step and self.recipe.is_finite():
            with self._writing():
                self._save()
        network, rate = network_of(name)
        raise DivergedError(
            f"Step {self.step + 1}: {name} of the {network} is {values[name]}. {self._saved()} Lower {rate} and start "
            "again."
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Files are written in the `with` block. Raises NotSavedError in place of OSError."""
        try:
            yield
        except OSError as error:
            raise NotSavedError(
                f"Step {self.step}: '{self.out}' cannot be written: {reason_of(error)}. {self._saved()} "
                "Make room there and give the same command again."
            ) from error

    def _saved(self) -> str:
        """A sentence: what there is to go on from."""
        if self.saved_step is None:
            return "There is no checkpoint yet."
        earlier = [path.name for path in earlier_checkpoints(self.out)[:-1]]
        more = f"; if that one is no good, copy '{earlier[-1]}' over it" if earlier else ""
        return f"The last good checkpoint is '{self.out / CHECKPOINT}' of step {self.saved_step}{more}."

    def _tell(self, text: str) -> None:
        (self.progress.say if self.progress else self.say)(text)

    def _log(self) -> None:
        """Write the means since the last line."""
        values = self.meter.take_means()
        losses = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}
        if self.logbook:
            rates = {f"lr/{name}": learner.lr for name, learner in self.recipe.learners().items()}
            self.logbook.log(self.step, values | rates)
        if self.progress:
            self.progress.show(" ".join(f"{name} {value:.4f}" for name, value in losses.items()))

    def _validate(self) -> None:
        if self.validator and self.logbook:
            scores = self.validator.run(self.lora(), self.step)
            rows = {f"val/{name}": value for name, value in scores.items()}
            rows |= {f"bicubic/{name}": value for name, value in self.validator.bicubic.items()}
            self.logbook.log(self.step, rows)
            self.logbook.images(self.step, "validation", self.validator.sheet)
            self._tell(f"Step {self.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
            score = best_score(self.config, scores)
            if self.best is None or score > self.best[1]:
                self.best = (self.step, score)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        """The checkpoint, then the LoRAs that follow from it: after a kill between them `_export` is done again."""
        if self.is_main:
            write_checkpoint(self.out, self._state(), self.config.run.keep_checkpoints)
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
        own["held_out"] = self.held_out
        return own | {"config": plain_config(self.config)} | self.recipe.state()

    def _load(self, state: State) -> None:
        self.recipe.load(state)
        self.step, self.meter.values = state["step"], state["meter"]
        self.best = state["best"] if best_still_counts(state["config"], self.config) else None
        self.saved_step = self.step
        restore_random_states(state["random"])


def _refuse(config: TrainConfig, accelerator: Accelerator) -> None:
    world, batch_size = accelerator.num_processes, config.data.batch_size
    if batch_size % world:
        raise ConfigError(
            f"data.batch_size: expected a multiple of the number of processes ({world}), found {batch_size}."
        )
    if config.loss.adversarial_share > 0 and (world > 1 or config.run.precision == "fp16"):
        raise ConfigError(
            f"loss.adversarial_share expects one process with run.precision bf16 or no, found {world} with "
            f"{config.run.precision}. Set it to 0, and choose loss.lambda_1."
        )
    if config.run.precision == "fp16" and accelerator.device.type != "cuda":
        raise ConfigError("run.precision: fp16 needs a CUDA device, found none. Set bf16 or no.")
