"""The runs of an ablation: what each row sets, which start it goes on from, and training them a few at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dfosd_core.errors import ConfigError
from dfosd_core.lora.file import load_lora

from ..loop.checkpoint import checkpoint_name, earlier_checkpoints
from ..loop.trainer import LAST_LORA
from ..settings.config import TrainConfig
from ..settings.config_file import load_config


class Row(NamedTuple):
    """One row of the table: the discriminator that it trains against. All else is the configuration's."""

    label: str
    discriminator: str

    def settings(self, config: TrainConfig) -> tuple[str, ...]:
        """As `--set` takes them."""
        kind = f"discriminator.kind={self.discriminator}"
        if self.discriminator == "none":
            return (kind,)
        # The discriminator as it was when its term joined is judged too, however often the run is interrupted.
        return kind, f"run.checkpoint_every={config.discriminator.from_step}", f"run.keep_checkpoints={ALL}"


ROWS = {
    "none": Row("no discriminator", "none"),
    "nad": Row("NAD", "nad"),
    "nad_random": Row("NAD, random weights", "nad_random"),
    "pixel": Row("pixel CNN", "pixel"),
}
"""In the table's order."""
COMPARISONS = (("nad", "none"), ("nad_random", "none"), ("pixel", "none"), ("nad", "nad_random"))
"""(First, second): what each discriminator contributes, then what the NAD's pretrained prior does."""
ALL = 1_000_000
"""Checkpoints to keep: whatever a run writes."""
START = "start"
LABELS = {START: "start (MSE)"} | {name: row.label for name, row in ROWS.items()}
START_TERMS = ("loss.perceptual=none", "discriminator.kind=none")
START_SEED = 1000
"""Added to a row's seed for its start, so that rows go on to crops the start has not seen."""
ROOT = Path(__file__).parents[2]


class AblationRun(NamedTuple):
    """One training run of the ablation."""

    row: str
    seed: int
    out: Path
    steps: int
    settings: tuple[str, ...]

    def is_done(self) -> bool:
        """Whether its last LoRA is of its last step."""
        path = self.out / LAST_LORA
        return path.is_file() and load_lora(path).metadata.train_config.get("trained_steps") == self.steps


def list_runs(
    config: TrainConfig,
    out: Path,
    rows: Sequence[str],
    seeds: Sequence[int],
    start_steps: int,
    start_settings: Sequence[str] = (),
) -> list[AblationRun]:
    """All runs: the starts, then the rows, seed by seed. `start_settings` are the starts' alone.

    Raises ConfigError for a configuration in which the rows could not be compared.
    """
    _check(config)
    starts, runs = list[AblationRun](), list[AblationRun]()
    for seed in seeds:
        start = out / f"seed{seed}" / START
        own = (*start_settings, f"optim.steps={start_steps}", f"run.seed={seed + START_SEED}", f"run.out={start}")
        starts.append(AblationRun(START, seed, start, start_steps, (*START_TERMS, *own)))
        for row in rows:
            place = start.with_name(row)
            own = (f"model.init_lora={start / LAST_LORA}", f"run.seed={seed}", f"run.out={place}")
            runs.append(AblationRun(row, seed, place, config.optim.steps, (*ROWS[row].settings(config), *own)))
    return starts + runs


def _check(config: TrainConfig) -> None:
    share, joins = config.loss.adversarial_share, config.discriminator.from_step
    if share <= 0:
        raise ConfigError(
            "The ablation compares discriminators at equal gradient norms: expected loss.adversarial_share above 0, "
            f"found {share}. Set it, to 0.5 for example."
        )
    if not 0 < joins < config.optim.steps:
        raise ConfigError(
            f"Each discriminator has to learn before it counts: expected discriminator.from_step from 1 to below "
            f"optim.steps ({config.optim.steps}), found {joins}. Set it, and warmup_steps to the same."
        )


def train_all(runs: Sequence[AblationRun], config: Path, settings: Sequence[str], jobs: int) -> None:
    """Train what is not done yet, `jobs` runs at a time. Raises ConfigError for a run that fails; the others stop."""
    failed = threading.Event()
    starts: dict[int, Future[None]] = {}

    def train(run: AblationRun) -> None:
        try:
            if run.row != START:
                starts[run.seed].result()  # it was submitted earlier, so it is done or running
            if not failed.is_set() and not run.is_done():
                train_run(run, config, settings, jobs)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        futures: list[Future[None]] = []
        for run in runs:
            futures.append(pool.submit(train, run))
            if run.row == START:
                starts[run.seed] = futures[-1]
        try:
            for future in futures:
                future.result()
        except BaseException:  # Ctrl-C too: the runs got it as well, and save
            failed.set()
            raise


def train_run(run: AblationRun, config: Path, settings: Sequence[str], jobs: int) -> None:
    """Train one run in a process of its own, which logs to train.log. Raises ConfigError where it fails."""
    run.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "train_tools.train", "--config", str(config), "--set", *settings, *run.settings]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads_each(jobs)))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    print(f"training {run.row}, seed {run.seed}: {run.steps} steps into {run.out}", file=sys.stderr, flush=True)
    log = run.out / "train.log"
    with log.open("ab") as file:
        code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code != 0:
        *_, last = log.read_text("utf-8", "replace").strip().splitlines() or ["nothing was written"]
        raise ConfigError(f"The run '{run.out}' ended with code {code} ({last}). See {log}, then start again.")
    _tidy(run.out)


def _tidy(out: Path) -> None:
    """Of a finished run's checkpoints two are used: where the adversarial term joined, and the last."""
    used = checkpoint_name(load_config(out / "config.yaml", []).discriminator.from_step)
    for path in earlier_checkpoints(out):
        if path.name != used:
            path.unlink(missing_ok=True)


def threads_each(jobs: int) -> int:
    """Cores for each of `jobs` processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)
