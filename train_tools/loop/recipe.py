"""One iteration (docs/method.md, "Training"): the generator's step, then the discriminator's on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dfosd_core.training.lora_layers import frozen
from dfosd_core.training.losses import (
    DiscriminatorLosses,
    GeneratorLosses,
    LossSettings,
    discriminator_loss,
    generator_loss,
    input_of,
    space_of,
)
from dfosd_core.training.noise import SampleNoise, to_device

from ..data.crops import MicroBatch
from ..settings.config import TrainConfig
from .checkpoint import load_optimizer, load_trainable, trainable_state
from .ema import Ema
from .learner import Learner
from .matched import MatchedGradients
from .networks import Networks

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ActiveTerms(NamedTuple):
    """The losses that a step has."""

    perceptual: bool
    """The perceptual term is in the generator's loss."""
    adversarial: bool
    """The adversarial term is in the generator's loss."""
    discriminator: bool
    """The discriminator takes a step."""


class DiscriminatorBatch(NamedTuple):
    """What the generator's step leaves for the discriminator's."""

    fake: Tensor
    """z_sr, or x_sr for a discriminator of images; detached."""
    x_hr: Tensor
    noise: SampleNoise
    """Each sample's draws go on where the generator's step stopped."""


class Recipe:
    """Both networks under training and what moves them."""

    def __init__(self, config: TrainConfig, networks: Networks, accelerator: Accelerator) -> None:
        self.config, self.networks, self.device = config, networks, accelerator.device
        loss, chosen, scaling = config.loss, config.discriminator, config.run.precision == "fp16"
        self.settings = LossSettings(
            lambda_1=1.0 if loss.adversarial_share > 0 else loss.lambda_1,
            lambda_2=loss.lambda_2,
            lambda_cycle=loss.lambda_cycle,
            lambda_direction=loss.lambda_direction,
            t_noise_min=chosen.t_noise_min,
            t_noise_max=chosen.t_noise_max,
        )
        self.generator = Learner(
            networks.generator, accelerator, optim=config.optim, lr=config.optim.lr, loss_scaling=scaling
        )
        self.matched = MatchedGradients(self.generator, loss.adversarial_share) if loss.adversarial_share > 0 else None
        self.ema = Ema(self.generator.parameters, config.optim.ema) if config.optim.ema > 0 else None
        self.discriminator: Learner | None = None
        if networks.discriminator is not None:
            self.discriminator = Learner(
                networks.discriminator,
                accelerator,
                optim=config.optim,
                lr=chosen.lr,
                first_step=chosen.from_step - chosen.warmup_steps,
                loss_scaling=scaling,
            )

    def learners(self) -> dict[str, Learner]:
        """By name, the generator first."""
        both = {"generator": self.generator, "discriminator": self.discriminator}
        return {name: learner for name, learner in both.items() if learner is not None}

    def active_terms(self, step: int) -> ActiveTerms:
        """The terms of step `step`, counted from 0."""
        settings, has_discriminator = self.config.discriminator, self.discriminator is not None
        return ActiveTerms(
            perceptual=self.networks.perceptual is not None and step >= self.config.loss.perceptual_from,
            adversarial=has_discriminator and step >= settings.from_step,
            discriminator=has_discriminator and step >= settings.from_step - settings.warmup_steps,
        )

    def train_step(self, step: int, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Take this process's micro-batches of step `step` through both networks; return what to log, detached.

        The loss of a step is the mean over its samples, however they are cut into micro-batches.
        """
        terms, values = self.active_terms(step), dict[str, Tensor]()
        count = sum(len(batch.indices) for batch in batches)
        finished: list[DiscriminatorBatch] = []
        with self._discriminator_frozen(terms):
            for batch in batches:
                share = len(batch.indices) / count
                with self.generator.accumulating(last=batch is batches[-1]):
                    losses, result = self.forward_generator(batch, terms)
                    if self.matched and terms.adversarial:
                        self.matched.backward(losses.fidelity * share, losses.opposing * share)
                    else:
                        self.generator.backward(losses.total * share)
                finished.append(result)
                _add(values, self._generator_report(losses, terms), share)
        if self.matched and terms.adversarial:
            values |= self.matched.join()
            values["loss/generator"] += (values["weight/adversarial"] - 1) * values["loss/adversarial"]
        values["grad/generator"] = self.generator.step(step)
        if self.ema:
            self.ema.update()
        if self.discriminator and terms.discriminator:
            for result in finished:
                share = len(result.x_hr) / count
                with self.discriminator.accumulating(last=result is finished[-1]):
                    losses_d = self.forward_discriminator(self.discriminator.wrapped, result)
                    self.discriminator.backward(losses_d.total * share)
                _add(values, _discriminator_report(losses_d), share)
            values["grad/discriminator"] = self.discriminator.step(step)
        return values

    def forward_generator(self, batch: MicroBatch, terms: ActiveTerms) -> tuple[GeneratorLosses, DiscriminatorBatch]:
        """L_gen of one micro-batch."""
        networks, noise = self.networks, SampleNoise.seeded(self.config.run.seed, batch.indices)
        x_lr, x_hr = (
            to_device(x, self.device).contiguous(memory_format=networks.memory_format())
            for x in (batch.x_lr, batch.x_hr)
        )
        with self.autocast():
            z_sr, x_sr = self.generator.wrapped(x_lr, noise)
            losses = generator_loss(
                x_sr,
                x_hr,
                z_sr,
                perceptual=networks.perceptual if terms.perceptual else None,
                discriminator=networks.discriminator if terms.adversarial else None,
                encode=networks.generator.encode_again if self.settings.lambda_cycle > 0 else None,
                rng=noise,
                settings=self.settings,
            )
        discriminator = networks.discriminator
        fake = z_sr if discriminator is None else input_of(discriminator, z_sr, x_sr)
        return losses, DiscriminatorBatch(fake.detach(), x_hr, noise)

    def forward_discriminator(self, discriminator: nn.Module, batch: DiscriminatorBatch) -> DiscriminatorLosses:
        """L_D of the same samples: z_sr as it was before the generator's step, and z_hr."""
        with self.autocast():
            real = batch.x_hr
            if space_of(discriminator) == "latent":
                real = self.networks.generator.encode(real, batch.noise)
            return discriminator_loss(discriminator, batch.fake, real, rng=batch.noise, settings=self.settings)

    def autocast(self) -> torch.autocast:
        """The number format of the networks' forward passes."""
        dtype = AUTOCAST.get(self.config.run.precision)
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)

    def is_finite(self) -> bool:
        """Whether what a checkpoint would hold is; waits for the device."""
        parameters = [p for learner in self.learners().values() for p in learner.parameters]
        return all(bool(parameter.isfinite().all()) for parameter in parameters)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs of it."""
        learners, ema = self.learners(), self.ema
        return {
            "networks": {name: trainable_state(learner.network) for name, learner in learners.items()},
            "optimizers": {name: learner.optimizer.state_dict() for name, learner in learners.items()},
            "scalers": {name: learner.scaler.state_dict() for name, learner in learners.items()},
            "ema": None if ema is None else ema.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. A discriminator or an average that joins later starts afresh."""
        for name, learner in self.learners().items():
            if name in state["networks"]:
                load_trainable(learner.network, state["networks"][name], name)
                load_optimizer(learner.optimizer, state["optimizers"][name])
                if state["scalers"][name]:  # empty where nothing was scaled
                    learner.scaler.load_state_dict(state["scalers"][name])
        if self.ema:
            self.ema.load(state["ema"])

    def _generator_report(self, losses: GeneratorLosses, terms: ActiveTerms) -> dict[str, Tensor]:
        report = {"loss/generator": losses.total.detach(), "loss/mse": losses.mse}
        if terms.perceptual:
            report["loss/perceptual"] = losses.perceptual
        if terms.adversarial:
            report["loss/adversarial"] = losses.adversarial
        if self.settings.lambda_cycle > 0:
            report["loss/cycle"] = losses.cycle
        if self.settings.lambda_direction > 0:
            report["loss/direction"] = losses.direction
        return report

    def _discriminator_frozen(self, terms: ActiveTerms) -> AbstractContextManager[None]:
        # In the backward pass too: gradient checkpointing runs the discriminator again there.
        network = self.networks.discriminator
        return frozen(network) if network is not None and terms.adversarial else nullcontext()


def _discriminator_report(losses: DiscriminatorLosses) -> dict[str, Tensor]:
    return {"loss/discriminator": losses.total.detach(), "loss/d_real": losses.real, "loss/d_fake": losses.fake}


def _add(values: dict[str, Tensor], found: dict[str, Tensor], share: float) -> None:
    for name, value in found.items():
        values[name] = values[name] + value * share if name in values else value * share
