"""Do the method's parts earn their place? Trains each row of the ablation from the same start and compares them.

    python -m train_tools.ablation --config CONFIG --out OUT --start-steps 500 --pairs NAME=FOLDER [NAME=FOLDER ...]
        [--seeds 0 1 2] [--rows mse dists ea_dists nad pixel] [--jobs 2] [--set a.b=value ...]
        [--start-set a.b=value ...]

For each seed a start is trained on MSE alone; then each row trains `optim.steps` further steps from it, all on the same
crops. Started again with the same arguments it goes on where it stopped; more seeds, rows and pairs may be added.
Writes OUT/results.json, table.md, plot.png and crops.png; `--report` only draws these again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.lora.file import load_lora

from .ablations.report import write_report
from .ablations.scores import evaluate_runs
from .loop.trainer import LAST_LORA
from .settings.config import TrainConfig
from .settings.config_file import dump_config, load_config

ROWS = {
    "mse": ("loss.perceptual=none", "discriminator.kind=none"),
    "dists": ("loss.perceptual=dists", "discriminator.kind=none"),
    "ea_dists": ("loss.perceptual=ea_dists", "discriminator.kind=none"),
    "nad": ("loss.perceptual=ea_dists", "discriminator.kind=nad"),
    "pixel": ("loss.perceptual=ea_dists", "discriminator.kind=pixel"),
}
"""What each row sets; all else is the configuration's."""
START = "start"
START_SEED = 1000
"""Added to a row's seed for its start, so that rows go on to crops the start has not seen."""
ROOT = Path(__file__).parent.parent


class Run(NamedTuple):
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


def plan(
    config: TrainConfig,
    out: Path,
    rows: Sequence[str],
    seeds: Sequence[int],
    start_steps: int,
    start_settings: Sequence[str] = (),
) -> list[Run]:
    """All runs: the starts, then the rows, seed by seed. `start_settings` are the starts' alone."""
    starts: list[Run] = []
    runs: list[Run] = []
    for seed in seeds:
        folder = out / f"seed{seed}"
        own = (f"optim.steps={start_steps}", f"run.seed={seed + START_SEED}", f"run.out={folder / START}")
        starts.append(Run(START, seed, folder / START, start_steps, (*ROWS["mse"], *start_settings, *own)))
        for row in rows:
            own = (f"model.init_lora={folder / START / LAST_LORA}", f"run.seed={seed}", f"run.out={folder / row}")
            runs.append(Run(row, seed, folder / row, config.optim.steps, (*ROWS[row], *own)))
    return starts + runs


def train_all(runs: Sequence[Run], config: Path, settings: Sequence[str], jobs: int) -> None:
    """Train what is not done yet, `jobs` runs at a time. Raises ConfigError for a run that fails; the others stop."""
    failed = threading.Event()
    starts: dict[int, Future[None]] = {}

    def train(run: Run) -> None:
        try:
            if run.row != START:
                starts[run.seed].result()  # it was submitted earlier, so it is done or running
            if not failed.is_set() and not run.is_done():
                _train(run, config, settings, jobs)
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
        except BaseException:  # Ctrl-C too: the runs have had it as well and save
            failed.set()
            raise


def _train(run: Run, config: Path, settings: Sequence[str], jobs: int) -> None:
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


def threads_each(jobs: int) -> int:
    """Cores for each of `jobs` processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def check_out(out: Path, config: TrainConfig, start_steps: int, start_settings: Sequence[str] = ()) -> None:
    """Refuse a folder whose runs were trained under other settings; remember those of a new one."""
    path = out / "ablation.json"
    told = {"config": dump_config(config), "start_steps": start_steps, "start_settings": list(start_settings)}
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told, indent=2) + "\n")
    elif json.loads(path.read_text()) != told:
        raise ConfigError(
            f"'{out}' was begun with another configuration or another start (see {path}). "
            "Repeat those, or give another --out."
        )


def named_pairs(arguments: Sequence[str]) -> dict[str, Path]:
    """`NAME=FOLDER` ... -> {name: folder}. Raises ConfigError."""
    pairs = {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in arguments)}
    for name, folder in pairs.items():
        if not name or not folder.is_dir() or str(folder) == ".":
            raise ConfigError(f"--pairs: expected NAME=FOLDER with a folder that exists, found '{name}={folder}'.")
    return pairs


def ablate(args: argparse.Namespace) -> None:
    """Train, evaluate, report."""
    config = load_config(args.config, args.set)
    pairs = named_pairs(args.pairs)
    check_out(args.out, config, args.start_steps, args.start_set)
    runs = plan(config, args.out, args.rows, args.seeds, args.start_steps, args.start_set)
    if not args.report:
        train_all(runs, args.config, args.set, args.jobs)
        folders = [(run.row, run.seed, run.out) for run in runs]
        evaluate_runs(folders, pairs, config, args.out / "results.json", args.jobs, threads_each(args.jobs))
    print(write_report(args.out, pairs, config))


def main() -> int:
    """Parse the command line and run the ablation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of every row; optim.steps are the row's steps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-steps", type=int, default=500, help="steps of the start on MSE alone")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="NAME=FOLDER", help="held-out pairs to judge by")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="A.B=VALUE", help="for every run")
    parser.add_argument(
        "--start-set", nargs="+", action="extend", default=[], metavar="A.B=VALUE", help="for the starts"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--report", action="store_true", help="draw table, plot and pictures again, nothing else")
    args = parser.parse_args()
    try:
        ablate(args)
    except DfosdError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ablation: interrupted; the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
