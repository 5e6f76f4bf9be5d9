"""Stable Diffusion's noise schedule, "scaled linear" from 0.00085 to 0.012 over 1000 steps.

alpha_bar_t = prod_{s <= t} (1 - beta_s); F(z, t) = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps.
A LoRA is trained against this table, so it is ours: no scheduler object of a host is ever asked.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .errors import ConfigError

NUM_TIMESTEPS = 1000
BETA_START = 0.00085
BETA_END = 0.012


@lru_cache(maxsize=1)
def alpha_bar_table() -> Tensor:
    """alpha_bar for t = 0..999, (1000,) float64 on the CPU. Shared: read it, never write to it."""
    beta = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - beta, dim=0)


def alpha_bar_at(t: int) -> float:
    """alpha_bar_t in double precision. Raises ConfigError outside 0..999."""
    if not 0 <= t < NUM_TIMESTEPS:
        raise ConfigError(f"Expected a timestep from 0 to {NUM_TIMESTEPS - 1}, found {t}.")
    return float(alpha_bar_table()[t])


def add_noise(z: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
    """F(z, t), the forward diffusion (paper eq. 2).

    `z`, `eps`: (B, ...); `t`: one timestep for all, or (B,) integers. Float32 inside, z's dtype outside.
    """
    signal, noise = _signal_and_noise(t, z)
    return (signal * z.float() + noise * eps.float()).to(z.dtype)


def eps_from_v(v: Tensor, z: Tensor, t: int | Tensor) -> Tensor:
    """The noise that a v-predicting network means: eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) z.

    Shapes and precision as in `add_noise`; returned in v's dtype.
    """
    signal, noise = _signal_and_noise(t, z)
    return (signal * v.float() + noise * z.float()).to(v.dtype)


def _signal_and_noise(t: int | Tensor, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    if isinstance(t, int):
        alpha_bar_t = alpha_bar_at(t)
        return alpha_bar_t**0.5, (1.0 - alpha_bar_t) ** 0.5
    # The roots are taken in double: 1 - alpha_bar loses half its digits in float32 at small t.
    signal, noise = _roots(t.device)[:, t].view(2, -1, *[1] * (like.ndim - 1))
    return signal, noise


@lru_cache(maxsize=16)
def _roots(device: torch.device) -> Tensor:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), (2, 1000) float32, there once: each call would wait for a copy."""
    # A table made in inference mode could not take part in training later.
    with torch.inference_mode(False):
        alpha_bar = alpha_bar_table()
        return torch.stack((alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())).float().to(device)
