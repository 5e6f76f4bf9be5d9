"""Measure which timestep T_L (`model.timestep`) suits a base and a degradation, instead of assuming one.

    python train_tools/timestep.py --config CONFIG --out OUT [--pairs PAIRS] [--grid 50 100 ...] [--set a.b=value ...]
    python train_tools/timestep.py --config CONFIG --out OUT --steps 200 ...        and a short training at each of them

Without --steps nothing is trained, and it takes one UNet call for each timestep and pair. The columns are then

    error     of the base's own one-step answer: |z_sr - z_hr|^2 over |z_lr - z_hr|^2, so 1 is what doing nothing gives
    target    the RMS of the eps that would give z_hr exactly; the base's UNet has learned to give 1
    PSNR-Y    of the decoded answer

They say where training starts: at the least error the base already removes most of the degradation, and near target 1
the LoRA has the least to change in what the UNet gives. They do not say where training ends. With --steps the
configuration is trained for so many steps at each timestep, from one seed, on the same crops, and judged by
`validation.best_by`: the longer, the more it says. Repeat the command to go on after a stop.

PAIRS has LR/ and HR/; without it, validation.pairs. Writes OUT/timestep.png and OUT/timestep.json.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import make_folder, what_failed, write_text
from dfosd_core.hosts.own import fast_dtype, load_base
from dfosd_core.models import pick_device
from dfosd_core.schedule import NUM_TIMESTEPS

from .loop.networks import base_path
from .loop.timesteps import best, draw, measure, trained_score
from .scoring.metrics import METRICS, Scores
from .scoring.pair_files import find_pairs, read_pair
from .scoring.pictures import save_picture
from .settings.config import TrainConfig
from .settings.config_file import load_config
from .train import make_accelerator, run

GRID = (25, 50, 100, 150, 200, 250, 300, 399, 500, 600, 700, 800)


def find_timestep(args: argparse.Namespace) -> str:
    """Measure, train where asked to, write picture and figures; return the table and what it says."""
    config = load_config(args.config, args.set)
    pairs = args.pairs or config.validation.pairs
    if pairs is None:
        raise ConfigError("Expected --pairs or validation.pairs, found neither. train_tools/make_pairs.py makes pairs.")
    make_folder(args.out, ConfigError)
    device = pick_device(None)
    host = load_base(base_path(config), fast_dtype(device), device)
    names = find_pairs(pairs, config.validation.count or None)
    found = measure(host, base_path(config), [read_pair(pairs, name) for name in names], args.grid)
    metric = ""
    if args.steps:
        for t in args.grid:
            metric, score = _train(config, t, args.steps, pairs, args.out)
            found[t][f"trained {metric}"] = score
    save_picture(draw(found, config.model.timestep), args.out / "timestep.png")
    write_text(args.out / "timestep.json", json.dumps({str(t): row for t, row in found.items()}, indent=1) + "\n")
    text = f"{_table(found)}\n\nLeast error of the base itself at t = {best(found, 'error', is_higher_better=False)}."
    if metric:
        chosen = best(found, f"trained {metric}", is_higher_better=METRICS[metric].is_higher_better)
        text += f"\nBest {metric} after {args.steps} steps at t = {chosen}: --set model.timestep={chosen}"
    return text


def _train(config: TrainConfig, t: int, steps: int, pairs: Path, out: Path) -> tuple[str, float]:
    """The configuration's metric after a short training at t."""
    own = replace(
        config,
        model=replace(config.model, timestep=t),
        optim=replace(config.optim, steps=steps, warmup_steps=min(config.optim.warmup_steps, steps - 1)),
        validation=replace(config.validation, pairs=pairs, every=steps),
        run=replace(config.run, out=out / f"t{t:03}", keep_checkpoints=1, wandb=None),
    )
    code = run(own, make_accelerator(own.run))
    if code != 0:
        raise KeyboardInterrupt
    return trained_score(own)


def _table(found: dict[int, Scores]) -> str:
    columns = list(next(iter(found.values())))
    lines = ["| t | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {t} | " + " | ".join(f"{row[column]:.4f}" for column in columns) + " |" for t, row in found.items()]
    return "\n".join(lines)


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="whose base, data and losses are meant")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, help="held-out pairs (default: validation.pairs)")
    parser.add_argument("--grid", type=int, nargs="+", default=list(GRID), metavar="T")
    parser.add_argument("--steps", type=int, default=0, help="train so long at each timestep (default: not at all)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="A.B=VALUE")
    args = parser.parse_args()
    if not all(0 <= t < NUM_TIMESTEPS for t in args.grid):
        parser.error(f"--grid: expected timesteps from 0 to {NUM_TIMESTEPS - 1}, found {args.grid}")
    args.grid = sorted(set(args.grid))
    try:
        print(find_timestep(args))
    except DfosdError as error:
        print(f"timestep: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"timestep: {what_failed(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("timestep: stopped; the same command goes on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
