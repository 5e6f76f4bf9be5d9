"""The paper's equation (arXiv 2410.04224, eq. 1) and nothing else."""

from __future__ import annotations

from torch import Tensor

from .errors import ConfigError
from .schedule import alpha_bar_at

EPS_X0, RESIDUAL = "eps-x0", "residual"
PREDICTION_RULES = (EPS_X0, RESIDUAL)
"""How z_sr follows from the network's output; a LoRA's metadata names the one it was trained with."""


def predict_z_sr(z_lr: Tensor, eps: Tensor, t: int, rule: str = EPS_X0) -> Tensor:
    """The clean latent in one step, from the low-resolution latent and the network's output.

    "eps-x0":   z_sr = (z_lr - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t), the paper's eq. 1;
    "residual": z_sr = z_lr - eps, the rule of some peers whose files we import.

    `z_lr`, `eps`: (B, C, h, w), model-space. No noise was added to z_lr. Computed in float32 (at t = 999 the
    gain is 14.65, which half precision turns into banding) and returned in z_lr's dtype. Differentiable.
    Raises ConfigError for an unknown rule or a timestep outside the schedule.
    """
    z, e = z_lr.float(), eps.float()
    if rule == RESIDUAL:
        return (z - e).to(z_lr.dtype)
    if rule == EPS_X0:
        alpha_bar_t = alpha_bar_at(t)
        return ((z - (1.0 - alpha_bar_t) ** 0.5 * e) / alpha_bar_t**0.5).to(z_lr.dtype)
    raise ConfigError(f"Expected a prediction rule of {' or '.join(PREDICTION_RULES)}, found '{rule}'.")
