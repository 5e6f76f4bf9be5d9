from __future__ import annotations

import pytest
import torch

from dfosd_core.errors import ConfigError
from dfosd_core.one_step import predict_z_sr
from dfosd_core.schedule import add_noise, alpha_bar_at, alpha_bar_table, eps_from_v


@pytest.mark.parametrize(
    ("t", "expected", "tolerance"),
    [
        (0, 0.99915, 1e-9),
        (199, 0.75524, 5e-6),
        (399, 0.42609, 5e-6),
        (499, 0.27767, 5e-6),
        (999, 0.0046600985, 5e-11),
    ],
)
def test_alpha_bar_has_stable_diffusions_values(t: int, expected: float, tolerance: float) -> None:
    assert alpha_bar_at(t) == pytest.approx(expected, abs=tolerance)


def test_sigma_spans_the_published_range() -> None:
    sigma = ((1 - alpha_bar_table()) / alpha_bar_table()).sqrt()
    assert sigma[0].item() == pytest.approx(0.029167, abs=1e-6)
    assert sigma[-1].item() == pytest.approx(14.614641, abs=1e-6)
    assert (sigma.diff() > 0).all()


def test_alpha_bar_table_equals_diffusers_scheduler() -> None:
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.DDPMScheduler(1000, 0.00085, 0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(alpha_bar_table().float(), scheduler.alphas_cumprod, rtol=2e-5, atol=0)


@pytest.mark.parametrize("t", [-1, 1000])
def test_timestep_outside_the_schedule_is_refused(t: int) -> None:
    with pytest.raises(ConfigError, match=f"Expected a timestep from 0 to 999, found {t}."):
        alpha_bar_at(t)


@pytest.mark.parametrize("t", [0, 1, 199, 399, 999])
def test_prediction_undoes_the_noise(t: int) -> None:
    z, eps = torch.randn(2, 3, 4, 5, 6).unbind()
    noisy = add_noise(z, eps, t)
    torch.testing.assert_close(predict_z_sr(noisy, eps, t), z, rtol=0, atol=2e-5)


def test_add_noise_with_a_timestep_each_equals_one_by_one() -> None:
    z, eps = torch.randn(2, 3, 4, 5, 6).unbind()
    t = torch.tensor([0, 399, 999])
    together = add_noise(z, eps, t)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], add_noise(z[i : i + 1], eps[i : i + 1], int(t[i])))


def test_prediction_at_399_has_the_papers_factors() -> None:
    z, eps = torch.randn(2, 1, 4, 8, 8).unbind()
    torch.testing.assert_close(predict_z_sr(z, eps, 399), 1.5320 * z - 1.1606 * eps, rtol=0, atol=5e-4)


def test_eps_from_v_recovers_the_noise() -> None:
    z, eps = torch.randn(2, 2, 4, 5, 6).unbind()
    a = alpha_bar_at(399)
    v = a**0.5 * eps - (1 - a) ** 0.5 * z
    torch.testing.assert_close(eps_from_v(v, add_noise(z, eps, 399), 399), eps)


def test_prediction_is_float32_inside_for_half_precision() -> None:
    z, eps = torch.randn(2, 1, 4, 16, 16).half().unbind()
    result = predict_z_sr(z, eps, 999)
    exact = predict_z_sr(z.double(), eps.double(), 999)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, exact.half(), rtol=0, atol=0)


def test_residual_rule_subtracts() -> None:
    z, eps = torch.randn(2, 1, 4, 3, 3).unbind()
    assert torch.equal(predict_z_sr(z, eps, 1, rule="residual"), z - eps)


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="Expected a prediction rule of eps-x0 or residual, found 'v'."):
        predict_z_sr(torch.zeros(1), torch.zeros(1), 1, rule="v")


def test_gradient_passes_through_the_prediction() -> None:
    z, eps = torch.randn(2, 1, 4, 3, 3).unbind()
    eps.requires_grad_()
    predict_z_sr(z, eps, 399).sum().backward()
    assert eps.grad is not None
    torch.testing.assert_close(eps.grad, torch.full_like(eps, -1.1606), rtol=0, atol=1e-4)
