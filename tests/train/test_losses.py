"""The two losses: their values, and where their gradients go and do not go (docs/method.md, "NAD")."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from support.small_networks import images, rng, small_pair, snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from dfosd_core.errors import ConfigError
from dfosd_core.schedule import add_noise
from dfosd_core.training.direction import direction_excess
from dfosd_core.training.generator import DfosdGenerator
from dfosd_core.training.lora_layers import LoraLayer, frozen, trainable_parameters
from dfosd_core.training.losses import (
    LossSettings,
    adversarial_loss,
    discriminator_loss,
    generator_loss,
)
from dfosd_core.training.nad import Nad

SETTINGS = LossSettings()


class FakeNad(nn.Module):
    """Gives chosen logits and keeps what it saw."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, z_noised: Tensor, t_noise: Tensor) -> Tensor:
        self.seen.append((z_noised, t_noise))
        return self.logits(z_noised)


def g_step(generator: DfosdGenerator, nad: Nad, optimizer: torch.optim.Optimizer) -> None:
    z_sr, x_sr = generator(images(), rng())
    settings = LossSettings(lambda_1=1.0)
    losses = generator_loss(
        x_sr, images(9), z_sr, perceptual=F.l1_loss, discriminator=nad, rng=rng(4), settings=settings
    )
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()


def d_step(generator: DfosdGenerator, nad: Nad, optimizer: torch.optim.Optimizer) -> None:
    z_sr, _ = generator(images(), rng())
    losses = discriminator_loss(nad, z_sr, generator.encode(images(9)), rng=rng(5), settings=SETTINGS)
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()


def unmoved(before: dict[str, Tensor], network: nn.Module) -> list[str]:
    now = dict(network.named_parameters())
    return [name for name, value in before.items() if torch.equal(value, now[name])]


def optimizers(generator: DfosdGenerator, nad: Nad) -> tuple[torch.optim.AdamW, torch.optim.AdamW]:
    # No weight decay: it would move parameters that get no gradient.
    g, d = (torch.optim.AdamW(trainable_parameters(n), 1e-3, weight_decay=0) for n in (generator, nad))
    return g, d


def test_adversarial_gradient_reaches_the_latent_and_the_generator() -> None:
    generator, nad = small_pair()
    z_sr, _ = generator(images(), rng())
    z_sr.retain_grad()
    adversarial_loss(nad, z_sr, rng(), SETTINGS).backward()
    assert (z_sr.grad.flatten(1).abs().max(1).values > 0).all()
    ups = [m.up_weight.grad for m in generator.modules() if isinstance(m, LoraLayer)]
    assert all(grad is not None and grad.abs().max() > 0 for grad in ups)


def test_generator_loss_gives_the_discriminator_no_gradient() -> None:
    generator, nad = small_pair()
    z_sr, x_sr = generator(images(), rng())
    generator_loss(
        x_sr, images(9), z_sr, perceptual=None, discriminator=nad, rng=rng(), settings=SETTINGS
    ).total.backward()
    assert all(parameter.grad is None for parameter in nad.parameters())
    assert len(trainable_parameters(nad)) > 0, "it can train again afterwards"


def test_discriminator_loss_gives_the_generator_no_gradient() -> None:
    generator, nad = small_pair()
    z_sr, _ = generator(images(), rng())
    losses = discriminator_loss(nad, z_sr, generator.encode(images(9)), rng=rng(), settings=SETTINGS)
    losses.total.backward()
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert nad.prompt_embeds.grad.abs().max() > 0


def test_every_lora_matrix_of_the_discriminator_trains_and_nothing_frozen_moves() -> None:
    generator, nad = small_pair()
    g_optimizer, d_optimizer = optimizers(generator, nad)
    frozen_before = snapshot(generator, trainable=False), snapshot(nad, trainable=False)
    start = snapshot(nad, trainable=True)
    d_step(generator, nad, d_optimizer)
    still = unmoved(start, nad)
    # While `up` is zero, `down` has no gradient: it follows in the second step.
    assert still
    assert all(name.endswith("down.weight") for name in still)
    d_step(generator, nad, d_optimizer)
    assert unmoved(start, nad) == []
    generator_start = snapshot(generator, trainable=True)
    g_step(generator, nad, g_optimizer)
    g_step(generator, nad, g_optimizer)
    assert unmoved(generator_start, generator) == []
    for before, network in zip(frozen_before, (generator, nad), strict=True):
        assert before
        assert unmoved(before, network) == list(before)


def test_generator_step_leaves_the_discriminator_alone_and_the_other_way_round() -> None:
    generator, nad = small_pair()
    g_optimizer, d_optimizer = optimizers(generator, nad)
    before = snapshot(nad, trainable=True)
    g_step(generator, nad, g_optimizer)
    assert unmoved(before, nad) == list(before)
    before = snapshot(generator, trainable=True)
    d_step(generator, nad, d_optimizer)
    assert unmoved(before, generator) == list(before)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        generator, nad = small_pair(checkpointing=checkpointing)
        z_sr, _ = generator(images(), rng())
        with frozen(nad):
            adversarial_loss(nad, z_sr, rng(), SETTINGS).backward()
        assert all(parameter.grad is None for parameter in nad.parameters())
        found = (parameter.grad for parameter in generator.parameters())
        gradients.append([grad for grad in found if grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_discriminator_learns_to_tell_two_kinds_of_latents_apart() -> None:
    _, nad = small_pair()
    optimizer = torch.optim.AdamW(trainable_parameters(nad), 3e-3)
    draws, settings = rng(), LossSettings(t_noise_max=200)
    history: list[float] = []
    for _ in range(20):
        z_sr, z_hr = (torch.randn(8, 4, 8, 8, generator=draws) * std for std in (0.3, 1.5))
        losses = discriminator_loss(nad, z_sr, z_hr, rng=draws, settings=settings)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(losses.total.item())
    assert abs(history[0] - 2 * math.log(2)) < 0.3, "it starts near chance"
    assert max(history[-3:]) < 0.3


@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.0])
def test_losses_equal_the_logarithms_of_the_paper(logit: float) -> None:
    nad = FakeNad(lambda z: torch.full((z.shape[0], 1, 2, 2), logit))
    z = torch.zeros(2, 4, 8, 8)
    probability = 1 / (1 + math.exp(-logit))
    l_g = adversarial_loss(nad, z, rng(), SETTINGS)
    l_d = discriminator_loss(nad, z, z, rng=rng(), settings=SETTINGS)
    assert l_g.item() == pytest.approx(-math.log(probability), rel=1e-5)
    assert l_d.fake.item() == pytest.approx(-math.log(1 - probability), rel=1e-5)
    assert l_d.real.item() == pytest.approx(-math.log(probability), rel=1e-5)
    assert l_d.total.item() == pytest.approx((l_d.fake + l_d.real).item())


def test_discriminator_loss_knows_fake_from_real() -> None:
    nad = FakeNad(lambda z: z.mean((1, 2, 3)).view(-1, 1, 1, 1).sign() * 9)
    low, high = torch.full((2, 4, 8, 8), -50.0), torch.full((2, 4, 8, 8), 50.0)
    settings = LossSettings(t_noise_max=100)
    assert discriminator_loss(nad, low, high, rng=rng(), settings=settings).total < 1e-3
    assert discriminator_loss(nad, high, low, rng=rng(), settings=settings).total > 17


def test_pairs_share_the_timestep_and_not_the_noise() -> None:
    nad = FakeNad(lambda z: z[:, :1])
    z = torch.zeros(64, 4, 8, 8)
    discriminator_loss(nad, z, z, rng=rng(), settings=SETTINGS)
    (noised, t_noise), *_ = nad.seen
    assert torch.equal(t_noise[:64], t_noise[64:])
    assert len(set(t_noise.tolist())) > 32
    correlation = torch.corrcoef(torch.stack((noised[:64].flatten(), noised[64:].flatten())))[0, 1]
    assert abs(correlation) < 0.05


def test_noise_is_the_schedules() -> None:
    nad = FakeNad(lambda z: z[:, :1])
    z = torch.randn(3, 4, 8, 8)
    adversarial_loss(nad, z, rng(6), SETTINGS)
    draws = rng(6)
    t_noise = torch.randint(0, 1000, (3,), generator=draws)
    (noised, t_seen), *_ = nad.seen
    assert torch.equal(t_seen, t_noise)
    assert torch.equal(noised, add_noise(z, torch.randn(z.shape, generator=draws), t_noise))


def test_timesteps_fill_the_given_range() -> None:
    nad = FakeNad(lambda z: z[:, :1])
    settings = LossSettings(t_noise_min=20, t_noise_max=22)
    adversarial_loss(nad, torch.zeros(64, 1, 1, 1), rng(), settings)
    assert set(nad.seen[0][1].tolist()) == {20, 21, 22}


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (5, 4), (0, 1000)])
def test_wrong_timestep_range_is_refused(low: int, high: int) -> None:
    with pytest.raises(ConfigError, match=rf"t_noise_max <= 999, found {low} and {high}"):
        LossSettings(t_noise_min=low, t_noise_max=high)


def test_generator_loss_weighs_its_terms() -> None:
    nad = FakeNad(lambda z: z[:, :1] * 0 + 1)
    x_sr, x_hr, z_sr = images(1), images(2), torch.zeros(2, 4, 8, 8)
    settings = LossSettings(lambda_1=0.5, lambda_2=3.0)
    losses = generator_loss(x_sr, x_hr, z_sr, perceptual=F.l1_loss, discriminator=nad, rng=rng(), settings=settings)
    mse = ((x_sr - x_hr) / 2).square().mean()
    l1 = ((x_sr - x_hr) / 2).abs().mean()
    adversarial = F.softplus(torch.tensor(-1.0))
    torch.testing.assert_close(losses.mse, mse)
    torch.testing.assert_close(losses.perceptual, l1)
    torch.testing.assert_close(losses.adversarial, adversarial)
    torch.testing.assert_close(losses.total, mse + 3 * l1 + adversarial / 2)
    assert (SETTINGS.lambda_1, SETTINGS.lambda_2) == (5e-3, 1.0)


def test_left_out_terms_read_zero() -> None:
    losses = generator_loss(
        images(1), images(2), torch.zeros(1), perceptual=None, discriminator=None, rng=rng(), settings=SETTINGS
    )
    assert losses.perceptual == losses.adversarial == losses.cycle == losses.direction == 0
    assert losses.total == losses.mse > 0


def test_cycle_term_compares_the_latent_with_that_of_its_own_picture() -> None:
    generator, _ = small_pair()
    z_sr, x_sr = generator(images(), rng())
    settings = LossSettings(lambda_cycle=0.3)
    loss_of = partial(
        generator_loss,
        perceptual=None,
        discriminator=None,
        encode=generator.encode_again,
        rng=rng(),
        settings=settings,
    )
    losses = loss_of(x_sr, images(9), z_sr)
    cycle = (z_sr - generator.encode(x_sr)).square().mean()
    torch.testing.assert_close(losses.cycle, cycle.detach())
    torch.testing.assert_close(losses.total, losses.mse + 0.3 * cycle)
    torch.testing.assert_close(losses.fidelity, losses.total)
    # Both sides have gradients: the latent moves to its picture's, and the picture to the latent.
    (whole,) = torch.autograd.grad(losses.total, z_sr, retain_graph=True)
    still = loss_of(x_sr.detach(), images(9), z_sr)
    (half,) = torch.autograd.grad(still.total, z_sr)
    assert (half - 0.6 * (z_sr - generator.encode(x_sr)) / z_sr.numel()).abs().max() < 1e-6
    assert (whole - half).abs().max() > 10 * half.abs().mean() * 1e-3


def test_direction_term_compares_the_pictures_in_unit_range() -> None:
    x_sr, x_hr = images(1, size=64), images(2, size=64)
    x_sr[..., ::5] = -1
    loss = generator_loss(
        x_sr,
        x_hr,
        torch.zeros(1),
        perceptual=None,
        discriminator=None,
        rng=rng(),
        settings=LossSettings(lambda_direction=0.2),
    )
    direction = direction_excess((x_sr + 1) / 2, (x_hr + 1) / 2)
    assert direction > 0.01
    torch.testing.assert_close(loss.direction, direction)
    torch.testing.assert_close(loss.fidelity, loss.mse + 0.2 * direction)
    torch.testing.assert_close(loss.total, loss.fidelity)


def test_perceptual_term_sees_unit_range_in_float32_outside_autocast() -> None:
    seen: list[Tensor] = []

    def perceptual(image: Tensor, reference: Tensor) -> Tensor:
        seen.extend((image, reference, image.flatten(1) @ reference.flatten(1).T))
        return image.mean()

    white, black = torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        generator_loss(
            white.bfloat16(), black, white, perceptual=perceptual, discriminator=None, rng=rng(), settings=SETTINGS
        )
    assert [tensor.dtype for tensor in seen] == [torch.float32] * 3
    assert (seen[0] == 1).all()
    assert (seen[1] == 0).all()


def test_frozen_restores_after_an_error() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)

    def stop_inside() -> None:
        with frozen(layer):
            assert not layer.weight.requires_grad
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_inside()
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad
