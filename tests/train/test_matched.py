"""Adversarial gradients of equal norm beside every discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import config, differences, rows, train, trainer

from dfosd_core.errors import ConfigError
from train_tools.loop.recipe import ActiveTerms
from train_tools.loop.trainer import Trainer

SHARE = 0.25
ALL = ActiveTerms(perceptual=False, adversarial=True, discriminator=True)


def settings(material: Path, out: Path, kind: str = "nad", **changes: dict[str, Any]) -> Any:
    loss = {"adversarial_share": SHARE}
    return config(material, out, **{"loss": loss, "discriminator": {"kind": kind}, "data": {"crop": 32}, **changes})


def gradients_of(run: Trainer, total: bool) -> list[torch.Tensor]:
    """Of the generator at the first batch, by the definition: of either term alone, over the whole batch."""
    batches = next(run.batches())
    count = sum(len(batch.indices) for batch in batches)
    parameters, sums = run.recipe.generator.parameters, list[torch.Tensor]()
    for batch in batches:
        losses, _ = run.recipe.forward_generator(batch, ALL)
        loss = (losses.fidelity if total else losses.opposing) * len(batch.indices) / count
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else list(found)
    return sums


def norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([each.flatten() for each in gradients]).norm()


@pytest.mark.parametrize("kind", ["nad", "nad_random", "pixel"])
@pytest.mark.parametrize("micro_batch", [4, 2])
def test_share_is_exact_whatever_the_discriminator_and_micro_batch(
    kind: str, micro_batch: int, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(settings(material, tmp_path / "out", kind, data={"crop": 32, "micro_batch": micro_batch}))
    # LoRA layers start with up at zero, where half of the gradients are zero too.
    with torch.no_grad():
        for parameter in run.recipe.generator.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.01)
    fidelity, adversarial = gradients_of(run, total=True), gradients_of(run, total=False)
    seen: list[list[torch.Tensor]] = []
    monkeypatch.setattr(
        run.recipe.generator,
        "step",
        lambda _: (
            seen.append([p.grad.clone() for p in run.recipe.generator.parameters if p.grad is not None])
            or torch.zeros(())
        ),
    )
    report = run.recipe.train_step(0, next(run.batches()))
    expected = SHARE * norm(fidelity) / norm(adversarial)
    torch.testing.assert_close(report["weight/adversarial"], expected, rtol=1e-4, atol=0)
    added = [both - own for both, own in zip(seen[0], fidelity, strict=True)]
    torch.testing.assert_close(norm(added), SHARE * norm(fidelity), rtol=1e-3, atol=0)
    torch.testing.assert_close(report["grad/adversarial"], norm(adversarial), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        report["loss/generator"], report["loss/mse"] + expected * report["loss/adversarial"], rtol=1e-4, atol=0
    )


def test_lambda_1_no_longer_counts_and_discriminators_get_no_gradient(material: Path, tmp_path: Path) -> None:
    reports: list[dict[str, torch.Tensor]] = []
    for lambda_1 in (0.01, 10.0):
        loss = {"adversarial_share": SHARE, "lambda_1": lambda_1}
        run = trainer(settings(material, tmp_path / str(lambda_1), loss=loss))
        reports.append(run.recipe.train_step(0, next(run.batches())))
        assert run.recipe.discriminator is not None
        assert all(parameter.grad is None for parameter in run.recipe.discriminator.parameters)
    assert reports[0] == reports[1]


def test_matched_run_resumes_bit_for_bit_and_logs_its_weight(material: Path, tmp_path: Path) -> None:
    whole = train(settings(material, tmp_path / "whole", optim={"steps": 4}))
    train(settings(material, tmp_path / "parts", optim={"steps": 2}))
    parts = train(settings(material, tmp_path / "parts", optim={"steps": 4}))
    own = {"config"}  # the first leg's number of steps was another
    assert not differences(
        {k: v for k, v in whole.items() if k not in own}, {k: v for k, v in parts.items() if k not in own}
    )
    logged = [row for row in rows(tmp_path / "whole") if "loss/mse" in row]
    assert all({"weight/adversarial", "grad/fidelity", "grad/adversarial"} <= row.keys() for row in logged)


def test_matched_norms_are_refused_where_they_cannot_be_had(material: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adversarial_share expects one process .* found 1 with fp16"):
        trainer(settings(material, tmp_path / "out", run={"precision": "fp16"}))


def test_rows_see_the_same_crops_and_noise(material: Path, tmp_path: Path) -> None:
    """The first step of `none` and `nad`: the same loss to the last bit, since only the gradients differ."""
    runs = [trainer(settings(material, tmp_path / kind, kind)) for kind in ("none", "nad", "nad_random", "pixel")]
    reports = [run.recipe.train_step(0, next(run.batches())) for run in runs]
    assert len({float(report["loss/mse"]) for report in reports}) == 1
