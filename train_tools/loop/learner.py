"""One network under training: its wrapper for several processes, optimiser, learning rate, clipping."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dfosd_core.training.lora_layers import trainable_parameters

from ..settings.config import OptimConfig, Schedule

SMALLEST_LR = 0.01
"""Of the peak, at the end of a cosine."""


def lr_factor(step: int, first_step: int, *, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Learning rate of step `step` over its peak, for a network whose first step is `first_step`."""
    since = step - first_step
    if since < warmup_steps:
        return (since + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (since - warmup_steps) / max(1, steps - first_step - warmup_steps)
    return SMALLEST_LR + (1 - SMALLEST_LR) * 0.5 * (1 + math.cos(math.pi * done))


class Learner:
    """AdamW on a network's trainable parameters; gradients are summed over micro-batches, averaged over processes."""

    def __init__(
        self,
        network: nn.Module,
        accelerator: Accelerator,
        *,
        optim: OptimConfig,
        lr: float,
        first_step: int = 0,
        loss_scaling: bool = False,
    ) -> None:
        self.network, self.accelerator, self.optim = network, accelerator, optim
        self.peak, self.first_step = lr, first_step
        self.wrapped: nn.Module = accelerator.prepare_model(network)
        self.parameters = trainable_parameters(network)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, betas=(optim.beta_1, optim.beta_2), weight_decay=optim.weight_decay
        )
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=loss_scaling)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Hold this around forward and backward: processes exchange gradients at the last micro-batch only."""
        return nullcontext() if last else self.accelerator.no_sync(self.wrapped)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's weighted loss."""
        self.scaler.scale(loss).backward()

    def step(self, step: int) -> Tensor:
        """Clip, update, and forget the gradients. Return their norm before clipping."""
        self.set_lr(step)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.optim.clip or math.inf)
        self._leave_out_unless(norm.isfinite())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def _leave_out_unless(self, finite: Tensor) -> None:
        """Zero gradients in place of NaN and infinity, which would be in every weight at once and in no checkpoint's.

        Without waiting for the device; the trainer stops the run when it sees the norm. Under loss scaling the scaler
        leaves such a step out itself.
        """
        if self.scaler.is_enabled():
            return
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = torch.where(finite, parameter.grad, 0.0)

    def set_lr(self, step: int) -> None:
        """The learning rate is a function of the step alone, so there is no scheduler to save."""
        optim = self.optim
        factor = lr_factor(
            step, self.first_step, steps=optim.steps, warmup_steps=optim.warmup_steps, schedule=optim.schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * factor

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]
