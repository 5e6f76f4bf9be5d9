"""The adversarial gradient at a given share of the others', for comparing discriminators at equal strength.

A fixed lambda_1 does not make discriminators equal: their gradients differ by orders of magnitude, and change as they
learn. VQGAN (arXiv 2012.09841, eq. 7) weights its adversarial term by the ratio of two gradient norms at the decoder's
last layer. Here the norms are those of the whole step's gradients on all that the generator trains, so the share is
exact at each step, and a step depends on nothing before it: a resumed run goes on bit for bit.

What this cannot equal is what the gradients are worth. A discriminator that has learned nothing is amplified to the
same norm, and then adds noise of the strength at which another adds knowledge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .learner import Learner

TINY = 1e-30
"""Of norms, so that no gradient at all is divided by nothing."""


class MatchedGradients:
    """Keeps a step's adversarial gradient apart from the rest, then adds it with `share` of the rest's norm."""

    def __init__(self, learner: Learner, share: float) -> None:
        self.learner, self.share = learner, share
        self.apart: list[Tensor] = []

    def backward(self, fidelity: Tensor, opposing: Tensor) -> None:
        """Add a micro-batch's gradients, of both of its weighted losses. One more backward pass than otherwise."""
        parameters = self.learner.parameters
        found = torch.autograd.grad(opposing, parameters, retain_graph=True, materialize_grads=True)
        if self.apart:
            torch._foreach_add_(self.apart, list(found))  # pyright: ignore[reportPrivateUsage]
        else:
            self.apart = list(found)
        self.learner.backward(fidelity)

    def join(self) -> dict[str, Tensor]:
        """Add what was kept apart to the learner's gradients; return both norms and the weight, for the log."""
        parameters, apart, self.apart = self.learner.parameters, self.apart, []
        rest, adversarial = _norm([p.grad for p in parameters if p.grad is not None]), _norm(apart)
        weight = self.share * rest / adversarial.clamp(min=TINY)
        for parameter, gradient in zip(parameters, apart, strict=True):
            parameter.grad = weight * gradient if parameter.grad is None else parameter.grad + weight * gradient
        return {"grad/fidelity": rest, "grad/adversarial": adversarial, "weight/adversarial": weight}


def _norm(gradients: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
