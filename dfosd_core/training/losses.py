"""The two losses (arXiv 2410.04224, eq. 2, 3 and section 3.4) of one batch, and the perceptual terms by name.

    L_gen = MSE(x_sr, x_hr) + lambda_2 L_perceptual(x_sr, x_hr) + lambda_1 L_G
    L_G   = mean softplus(-D(F(z_sr, t)))
    L_D   = mean softplus(D(F(z_sr, t))) + mean softplus(-D(F(z_hr, t)))

The paper's perceptual term is EA-DISTS. Two terms more, which the paper does not have and are 0 by default, are against
woven patterns, which a perceptual term may reward as texture. lambda_cycle MSE(z_sr, E(x_sr)) keeps z_sr where the
autoencoder's own latents lie: elsewhere the decoder weaves patterns of the latents' spacing into the picture.
lambda_direction direction_excess(x_sr, x_hr) sees weaves by their direction (`direction.py`).

D gives logits a, and softplus(-a) = -log sigmoid(a). A discriminator of images (`space` "image", an ablation) gets x
itself in place of F(z, t). Logits, perceptual terms and all sums are float32, also under autocast. Which network is
updated when is the recipe's.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..images import to_unit
from ..schedule import NUM_TIMESTEPS, add_noise
from .direction import direction_excess
from .dists import Dists
from .ea_dists import EaDists
from .heads import Space
from .lora_layers import frozen
from .noise import Rng, randint, randn

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""Distance of two batches (B, 3, H, W) in [0, 1], a scalar: image, reference."""


class PerceptualTerm(NamedTuple):
    """A perceptual term that a configuration can name."""

    label: str
    """In tables and plots."""
    needs_vgg: bool
    """Whether it is made of VGG16's convolutions, which the user has to provide."""
    make: Callable[[Path | None, torch.dtype], nn.Module] | None
    """Build it from the file of VGG16's convolutions, with these in the given dtype. None: no term."""


def _dists(vgg: Path | None, dtype: torch.dtype) -> Dists:
    assert vgg is not None, "the configuration was checked"
    return Dists.from_files(vgg, dtype=dtype)


def _ea_dists(vgg: Path | None, dtype: torch.dtype) -> EaDists:
    return EaDists(_dists(vgg, dtype))


PERCEPTUAL_TERMS = {
    "none": PerceptualTerm("none", needs_vgg=False, make=None),
    "dists": PerceptualTerm("DISTS", needs_vgg=True, make=_dists),
    "ea_dists": PerceptualTerm("EA-DISTS", needs_vgg=True, make=_ea_dists),
}
"""What `loss.perceptual` chooses from: a new term is a file here and a line in this list."""
if typing.TYPE_CHECKING:
    PerceptualName = str
else:
    PerceptualName = typing.Literal[tuple(PERCEPTUAL_TERMS)]
"""The type of a setting that names one: the configuration's parser and reference list the names."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Weights of the terms and the discriminator's timesteps."""

    lambda_1: float = 5e-3
    """Weight of the adversarial term L_G."""
    lambda_2: float = 1.0
    """Weight of the perceptual term."""
    lambda_cycle: float = 0.0
    """Weight of the cycle term."""
    lambda_direction: float = 0.0
    """Weight of the direction term."""
    t_noise_min: int = 0
    """Smallest timestep of the latents that the discriminator gets."""
    t_noise_max: int = NUM_TIMESTEPS - 1
    """Largest such timestep, included."""

    def __post_init__(self) -> None:
        if not 0 <= self.t_noise_min <= self.t_noise_max < NUM_TIMESTEPS:
            found = f"{self.t_noise_min} and {self.t_noise_max}"
            raise ConfigError(f"Expected 0 <= t_noise_min <= t_noise_max <= {NUM_TIMESTEPS - 1}, found {found}.")


class GeneratorLosses(NamedTuple):
    """`total` and its two summands have gradients; the unweighted terms are detached, for logs. All scalars."""

    total: Tensor
    mse: Tensor
    perceptual: Tensor
    adversarial: Tensor
    cycle: Tensor
    direction: Tensor
    fidelity: Tensor
    """All but lambda_1 L_G."""
    opposing: Tensor
    """lambda_1 L_G."""


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
    perceptual: PerceptualLoss | None,
    discriminator: nn.Module | None,
    encode: Callable[[Tensor], Tensor] | None = None,
    rng: Rng,
    settings: LossSettings,
) -> GeneratorLosses:
    """L_gen of x_sr, x_hr (B, 3, H, W) in [-1, 1] and z_sr (B, C, h, w).

    MSE and `perceptual` get [0, 1], unclamped. The discriminator gets no gradient.
    perceptual, discriminator, encode: None leaves the term out; it then reads 0. rng draws timesteps and noise.
    encode: x_sr -> its latent, with gradient, for the cycle term.
    """
    zero = torch.zeros((), device=x_sr.device)
    with torch.autocast(x_sr.device.type, enabled=False):
        image, reference = to_unit(x_sr.float()), to_unit(x_hr.float())
        mse = F.mse_loss(image, reference)
        distance = zero if perceptual is None else perceptual(image, reference)
        direction = direction_excess(image, reference) if settings.lambda_direction > 0 else zero
    cycle = zero if encode is None else F.mse_loss(z_sr.float(), encode(x_sr).float())
    adversarial = zero
    if discriminator is not None:
        adversarial = adversarial_loss(discriminator, input_of(discriminator, z_sr, x_sr), rng, settings)
    fidelity = mse + settings.lambda_2 * distance
    fidelity = fidelity + settings.lambda_cycle * cycle + settings.lambda_direction * direction
    opposing = settings.lambda_1 * adversarial
    terms = mse.detach(), distance.detach(), adversarial.detach(), cycle.detach(), direction.detach()
    return GeneratorLosses(fidelity + opposing, *terms, fidelity, opposing)


def adversarial_loss(discriminator: nn.Module, fake: Tensor, rng: Rng, settings: LossSettings) -> Tensor:
    """L_G (eq. 2): the gradient goes through the discriminator into `fake`, not into its parameters.

    fake: z_sr, or x_sr for a discriminator of images. With gradient checkpointing hold `frozen(discriminator)` around
    the backward pass too: it runs the network again.
    """
    t_noise = _draw_timesteps(fake, rng, settings)
    with frozen(discriminator):
        logits = discriminator(_noised(discriminator, fake, t_noise, rng), t_noise)
    return F.softplus(-logits.float()).mean()


def discriminator_loss(
    discriminator: nn.Module, fake: Tensor, real: Tensor, *, rng: Rng, settings: LossSettings
) -> DiscriminatorLosses:
    """L_D (eq. 3) of z_sr (detached here) and z_hr (B, C, h, w), or of images for a discriminator of images.

    A pair shares its timestep, since the paper compares paired features; the noises are independent.
    """
    t_noise = _draw_timesteps(fake, rng, settings)
    pair = torch.cat([_noised(discriminator, x.detach(), t_noise, rng) for x in (fake, real)])
    # One call for both: DistributedDataParallel expects one forward for each backward.
    logits = discriminator(pair, torch.cat((t_noise, t_noise))).float()
    fake_logits, real_logits = logits.chunk(2)
    fake_loss, real_loss = F.softplus(fake_logits).mean(), F.softplus(-real_logits).mean()
    return DiscriminatorLosses(fake_loss + real_loss, fake_loss.detach(), real_loss.detach())


def space_of(discriminator: nn.Module) -> Space:
    """What the discriminator takes; it may be wrapped for several processes."""
    return cast("Space", getattr(getattr(discriminator, "module", discriminator), "space", "latent"))


def input_of(discriminator: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    """The one of latent and image that the discriminator takes."""
    return z if space_of(discriminator) == "latent" else x


def _draw_timesteps(x: Tensor, rng: Rng, settings: LossSettings) -> Tensor:
    return randint(rng, settings.t_noise_min, settings.t_noise_max + 1, x.shape[0], x.device)


def _noised(discriminator: nn.Module, x: Tensor, t_noise: Tensor, rng: Rng) -> Tensor:
    if space_of(discriminator) == "image":
        return x.float()
    return add_noise(x.float(), randn(rng, x.shape, x.device), t_noise)
