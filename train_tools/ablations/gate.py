"""Whether a row's discriminator has learned anything: its loss on photographs that no network was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from dfosd_core.errors import ConfigError
from dfosd_core.images import to_signed

from ..data.crops import MicroBatch
from ..loop.checkpoint import CHECKPOINT, checkpoint_name, read_checkpoint
from ..loop.device import choose_device
from ..loop.networks import Networks
from ..loop.recipe import ActiveTerms, Recipe
from ..scoring.metrics import Scores
from ..scoring.pair_files import find_pairs, read_pair
from ..scoring.validation import bicubic
from ..settings.config_file import load_config

GATE = 1.2
"""Held-out L_D below which a discriminator tells real from restored; 2 ln 2 = 1.386 is chance."""
DRAWS = 2
"""Times a pair is noised for the discriminator."""
HELD_OUT = 2**40
"""First sample index of held-out noise: no run of any length has drawn it in training."""
JOINED, ENDED = "L_D when it joined", "L_D at the end"


def discriminator_losses(run: Path, pairs: Path) -> Scores:
    """Held-out L_D after the warm-up, where the adversarial term joined, and at the end; empty without discriminator.

    The gate asks for the former. At the end a generator that has learned to fool it may be why it is at chance.
    """
    joins = load_config(run / "config.yaml", []).discriminator.from_step
    ended = heldout_discriminator_loss(run, pairs)
    if ended is None:
        return {}
    joined = heldout_discriminator_loss(run, pairs, checkpoint_name(joins))
    assert joined is not None
    return {JOINED: joined, ENDED: ended}


def heldout_discriminator_loss(run: Path, pairs: Path, name: str = CHECKPOINT, draws: int = DRAWS) -> float | None:
    """Mean L_D of a checkpoint's discriminator on pairs it was not trained on. None without one.

    As in training, with the checkpoint's generator, number format and timesteps; each pair is noised `draws` times,
    always alike. Raises ConfigError where there is no checkpoint.
    """
    state = read_checkpoint(run, name)
    if state is None:
        raise ConfigError(f"'{run}' has no '{name}'. Delete that folder and train it again.")
    if "discriminator" not in state["networks"]:
        return None
    config = load_config(run / "config.yaml", [])
    accelerator = Accelerator(cpu=choose_device(config.run) == "cpu")
    recipe = Recipe(config, Networks(config, accelerator.device), accelerator)
    recipe.load(state)
    assert recipe.discriminator is not None
    losses: list[float] = []
    terms = ActiveTerms(perceptual=False, adversarial=False, discriminator=True)
    for i, pair_name in enumerate(find_pairs(pairs)):
        pair = read_pair(pairs, pair_name)
        x_lr, x_hr = to_signed(bicubic(pair)), to_signed(pair.x_hr)
        for draw in range(draws):
            batch = MicroBatch(indices=[HELD_OUT + i * draws + draw], x_lr=x_lr, x_hr=x_hr)
            with torch.no_grad():
                _, result = recipe.forward_generator(batch, terms)
                losses.append(recipe.forward_discriminator(recipe.discriminator.network, result).total.item())
    return float(np.mean(losses))
