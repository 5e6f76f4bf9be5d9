"""The two losses (paper eq. 2 and 3 and section 3.4) as plain functions of one batch.

    L_gen = MSE(x_sr, x_hr) + lambda_2 L_EA-DISTS(x_sr, x_hr) + lambda_1 L_G
    L_G   = mean softplus(-D(F(z_sr, t)))
    L_D   = mean softplus(D(F(z_sr, t))) + mean softplus(-D(F(z_hr, t)))

D gives logits a, and softplus(-a) = -log sigmoid(a). Who updates which network when belongs to the recipe.
A discriminator of images (`space` "image", an ablation) sees x itself in place of F(z, t).
Logits, DISTS and all sums are float32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..images import to_unit
from ..schedule import NUM_TIMESTEPS, add_noise
from .heads import Space
from .lora_layers import frozen
from .noise import Rng, randint, randn


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Weights of the terms and the discriminator's timesteps."""

    lambda_1: float = 5e-3
    """Weight of the adversarial term L_G."""
    lambda_2: float = 1.0
    """Weight of EA-DISTS."""
    t_noise_min: int = 0
    """Smallest timestep at which the discriminator looks."""
    t_noise_max: int = NUM_TIMESTEPS - 1
    """Largest timestep at which the discriminator looks, included."""

    def __post_init__(self) -> None:
        if not 0 <= self.t_noise_min <= self.t_noise_max < NUM_TIMESTEPS:
            found = f"{self.t_noise_min} and {self.t_noise_max}"
            raise ConfigError(f"Expected 0 <= t_noise_min <= t_noise_max <= {NUM_TIMESTEPS - 1}, found {found}.")


class GeneratorLosses(NamedTuple):
    """`total` carries the gradient; the unweighted terms are detached, for logs. All scalars."""

    total: Tensor
    mse: Tensor
    ea_dists: Tensor
    adversarial: Tensor


class DiscriminatorLosses(NamedTuple):
    """`total` = fake + real has the gradient, 2 ln 2 = 1.386 is chance; the terms are detached, for logs."""

    total: Tensor
    fake: Tensor
    real: Tensor


def generator_loss(
    x_sr: Tensor,
    x_hr: Tensor,
    z_sr: Tensor,
    *,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    nad: nn.Module | None,
    rng: Rng,
    settings: LossSettings,
) -> GeneratorLosses:
    """L_gen of x_sr, x_hr (B, 3, H, W) in [-1, 1] and z_sr (B, C, h, w).

    MSE and `perceptual` see [0, 1], unclamped. The discriminator gets no gradient.
    perceptual: `EaDists` (or `Dists`); None leaves its term out, which then reads 0, and so does `nad` None.
    rng draws timesteps and noise. A discriminator of images judges x_sr instead of z_sr.
    """
    zero = torch.zeros((), device=x_sr.device)
    with torch.autocast(x_sr.device.type, enabled=False):
        image, reference = to_unit(x_sr.float()), to_unit(x_hr.float())
        mse = F.mse_loss(image, reference)
        ea_dists = zero if perceptual is None else perceptual(image, reference)
    adversarial = zero if nad is None else adversarial_loss(nad, judged(nad, z_sr, x_sr), rng, settings)
    total = mse + settings.lambda_2 * ea_dists + settings.lambda_1 * adversarial
    return GeneratorLosses(total, mse.detach(), ea_dists.detach(), adversarial.detach())


def adversarial_loss(nad: nn.Module, fake: Tensor, rng: Rng, settings: LossSettings) -> Tensor:
    """L_G (eq. 2): the gradient goes through the discriminator into `fake`, not into its parameters.

    fake: z_sr, or x_sr for a discriminator of images. With gradient checkpointing hold `frozen(nad)` around the
    backward pass too: it runs the network again.
    """
    t_noise = _draw_timesteps(fake, rng, settings)
    with frozen(nad):
        logits = nad(_seen(nad, fake, t_noise, rng), t_noise)
    return F.softplus(-logits.float()).mean()


def discriminator_loss(
    nad: nn.Module, fake: Tensor, real: Tensor, *, rng: Rng, settings: LossSettings
) -> DiscriminatorLosses:
    """L_D (eq. 3) of z_sr (detached here) and z_hr (B, C, h, w), or of images where the discriminator sees those.

    A pair shares its timestep, since the paper compares paired features; the noises are independent.
    """
    t_noise = _draw_timesteps(fake, rng, settings)
    pair = torch.cat([_seen(nad, x.detach(), t_noise, rng) for x in (fake, real)])
    # One call for both: a network wrapped for several GPUs wants one forward for each backward.
    logits = nad(pair, torch.cat((t_noise, t_noise))).float()
    fake_logits, real_logits = logits.chunk(2)
    fake_loss, real_loss = F.softplus(fake_logits).mean(), F.softplus(-real_logits).mean()
    return DiscriminatorLosses(fake_loss + real_loss, fake_loss.detach(), real_loss.detach())


def space_of(nad: nn.Module) -> Space:
    """What the discriminator judges; it may be wrapped for several processes."""
    return cast("Space", getattr(getattr(nad, "module", nad), "space", "latent"))


def judged(nad: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    """The one of latent and image that the discriminator judges."""
    return z if space_of(nad) == "latent" else x


def _draw_timesteps(x: Tensor, rng: Rng, settings: LossSettings) -> Tensor:
    return randint(rng, settings.t_noise_min, settings.t_noise_max + 1, x.shape[0], x.device)


def _seen(nad: nn.Module, x: Tensor, t_noise: Tensor, rng: Rng) -> Tensor:
    if space_of(nad) == "image":
        return x.float()
    return add_noise(x.float(), randn(rng, x.shape, x.device), t_noise)
