"""Scores of runs on held-out pairs, and their discriminators' losses; kept in scores.json, not computed twice."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from dfosd_core.attach import attached
from dfosd_core.errors import ConfigError
from dfosd_core.files import write_text
from dfosd_core.hosts.own import fast_dtype, load_base
from dfosd_core.images import to_signed
from dfosd_core.lora.file import load_lora
from dfosd_core.pipeline import UpscaleSettings

from ..data.crops import MicroBatch
from ..loop.checkpoint import read_checkpoint
from ..loop.networks import Networks, base_path, make_dists
from ..loop.recipe import ActiveTerms, Recipe
from ..loop.trainer import LAST_LORA
from ..scoring.metrics import Scores
from ..scoring.pair_files import find_pairs, read_pair
from ..scoring.validation import bicubic, restored_by, score_pairs
from ..settings.config import TrainConfig
from ..settings.config_file import load_config
from .runs import AblationRun, threads_each

DRAWS = 2
"""Times a pair is noised for the discriminator."""
HELD_OUT = 2**40
"""First sample index of held-out noise: no run of any length has drawn it in training."""


def evaluate_runs(
    runs: Sequence[AblationRun], pairs: Mapping[str, Path], config: TrainConfig, results: Path, jobs: int
) -> None:
    """Score bicubic and every run on every set of pairs, `jobs` at a time, and write `results` (JSON)."""
    score = partial(score_run, pairs=pairs, config=config)
    folders = [None, *(run.out for run in runs)]
    if jobs == 1:
        scored = [score(folder) for folder in folders]
    else:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in a broken state
        threads = threads_each(jobs)
        with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            scored = list(pool.map(score, folders))
    rows = [{"row": run.row, "seed": run.seed, "scores": own} for run, own in zip(runs, scored[1:], strict=True)]
    content = {"steps": config.optim.steps, "dtype": str(fast_dtype("cpu")), "bicubic": scored[0], "runs": rows}
    write_text(results, json.dumps(content, indent=2) + "\n")


def score_run(run: Path | None, pairs: Mapping[str, Path], config: TrainConfig) -> dict[str, Scores]:
    """By name of the pairs: all metrics of a run's last LoRA, and `L_D` of its discriminator. None: bicubic's."""
    if run is None:
        dists, plain = make_dists(config, torch.float32), {"bicubic": bicubic}
        scored = {name: score_pairs(folder, find_pairs(folder), plain, dists)[0] for name, folder in pairs.items()}
        return {name: methods["bicubic"] for name, methods in scored.items()}
    kept = run / "scores.json"
    known: dict[str, Scores] = json.loads(kept.read_text()) if kept.exists() else {}
    for folder in pairs.values():
        key = str(folder.resolve())
        if key not in known:
            known[key] = _score_lora(run, folder, config)
            write_text(kept, json.dumps(known, indent=2) + "\n")
    return {name: known[str(folder.resolve())] for name, folder in pairs.items()}


def _score_lora(run: Path, pairs: Path, config: TrainConfig) -> Scores:
    host, lora = load_base(base_path(config), fast_dtype("cpu")), load_lora(run / LAST_LORA)
    settings = UpscaleSettings()
    with attached(host, lora, settings) as host:
        methods = {"DFOSD": restored_by(host, lora, settings)}
        scores = score_pairs(pairs, find_pairs(pairs), methods, make_dists(config, torch.float32))[0]["DFOSD"]
    loss = heldout_discriminator_loss(run, pairs)
    return scores if loss is None else scores | {"L_D": loss}


def heldout_discriminator_loss(run: Path, pairs: Path, draws: int = DRAWS) -> float | None:
    """Mean L_D of the run's discriminator on pairs it was not trained on; 2 ln 2 is chance. None without one.

    As in training, with the run's own generator, number format and timesteps; each pair is noised `draws` times,
    always alike. Raises ConfigError where there is no checkpoint.
    """
    state = read_checkpoint(run)
    if state is None:
        raise ConfigError(f"'{run}' has no checkpoint. Train it first.")
    if "discriminator" not in state["networks"]:
        return None
    config, accelerator = load_config(run / "config.yaml", []), Accelerator(cpu=True)
    recipe = Recipe(config, Networks(config, accelerator.device), accelerator)
    recipe.load(state)
    assert recipe.discriminator is not None
    losses: list[float] = []
    terms = ActiveTerms(perceptual=False, adversarial=False, discriminator=True)
    for i, name in enumerate(find_pairs(pairs)):
        pair = read_pair(pairs, name)
        x_lr, x_hr = to_signed(bicubic(pair)), to_signed(pair.x_hr)
        for draw in range(draws):
            batch = MicroBatch(indices=[HELD_OUT + i * draws + draw], x_lr=x_lr, x_hr=x_hr)
            with torch.no_grad():
                _, result = recipe.forward_generator(batch, terms)
                losses.append(recipe.forward_discriminator(recipe.discriminator.network, result).total.item())
    return float(np.mean(losses))
