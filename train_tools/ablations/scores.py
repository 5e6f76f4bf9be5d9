"""Scores of runs on held-out pairs, kept in each run's scores.json and not computed twice."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dfosd_core.attach import attached
from dfosd_core.files import write_text
from dfosd_core.hosts.own import fast_dtype, load_base
from dfosd_core.lora.file import load_lora
from dfosd_core.pipeline import UpscaleSettings

from ..loop.device import choose_device
from ..loop.networks import base_path, make_dists
from ..loop.trainer import LAST_LORA
from ..scoring.library import Library
from ..scoring.metrics import Scores
from ..scoring.validation import bicubic, restored_by
from ..settings.config import TrainConfig
from .gate import discriminator_losses
from .judges import LIBRARY, judge, judge_photographs
from .pictures import results_of
from .runs import AblationRun, threads_each

KEPT = "scores.json"
CPU = torch.device("cpu")


def evaluate_runs(
    runs: Sequence[AblationRun], pairs: Mapping[str, Path], config: TrainConfig, results: Path, jobs: int
) -> None:
    """Score bicubic and every run on every set of pairs, `jobs` at a time, and write `results` (JSON)."""
    library = Library.open(LIBRARY, CPU, may_download=False, say=lambda text: print(text, file=sys.stderr))
    wanted = tuple(library.metrics)
    score = partial(score_run, pairs=pairs, config=config, wanted=wanted)
    folders = [run.out for run in runs]
    if jobs == 1:
        scored = [score(folder) for folder in folders]
    else:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in a broken state
        threads = threads_each(jobs)
        with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            scored = list(pool.map(score, folders))
    plain: dict[str, Scores] = {}
    photographs: dict[str, Scores] = {}
    for name, folder in pairs.items():
        shown = results_of(bicubic, folder)
        plain[name] = judge(shown, make_dists(config, torch.float32), library)
        photographs[name] = judge_photographs(shown)
    content = {
        "steps": config.optim.steps,
        "perceptual": config.loss.perceptual,
        "share": config.loss.adversarial_share,
        "dtype": str(fast_dtype(choose_device(config.run))),
        "bicubic": plain,
        "photographs": photographs,
        "runs": [{"row": run.row, "seed": run.seed, "scores": own} for run, own in zip(runs, scored, strict=True)],
    }
    write_text(results, json.dumps(content, indent=2) + "\n")


def score_run(
    run: Path, pairs: Mapping[str, Path], config: TrainConfig, wanted: Sequence[str] = ()
) -> dict[str, Scores]:
    """By name of the pairs: all scores of a run's last LoRA and of its discriminator. wanted: of pyiqa's."""
    kept = run / KEPT
    known: dict[str, Scores] = json.loads(kept.read_text()) if kept.exists() else {}
    for folder in pairs.values():
        key = str(folder.resolve())
        if not known.get(key, {}).keys() >= {"spectrum", *wanted}:
            known[key] = _score(run, folder, config, wanted)
            write_text(kept, json.dumps(known, indent=2) + "\n")
    return {name: known[str(folder.resolve())] for name, folder in pairs.items()}


def _score(run: Path, pairs: Path, config: TrainConfig, wanted: Sequence[str]) -> Scores:
    device, settings = choose_device(config.run), UpscaleSettings()
    host, lora = load_base(base_path(config), fast_dtype(device), device), load_lora(run / LAST_LORA)
    with attached(host, lora, settings) as ready:
        method = restored_by(ready, lora, settings)
        shown = results_of(lambda sample: method(replace(sample, x_lq=sample.x_lq.to(device))), pairs)
    library = Library.open(wanted, CPU, may_download=False, say=lambda _: None) if wanted else Library({}, "", CPU)
    return judge(shown, make_dists(config, torch.float32), library) | discriminator_losses(run, pairs)
