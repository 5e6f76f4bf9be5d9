"""What does the discriminator contribute, and its pretrained prior? Trains rows that differ in it alone, and compares.

    python -m train_tools.ablation --config train_tools/configs/ablation.yaml --out OUT --pairs NAME=FOLDER ...
        [--start-steps 500] [--seeds 0 1 2 3] [--rows none nad nad_random pixel] [--jobs 2] [--set a.b=value ...]
        [--start-set a.b=value ...]

For each seed a start is trained on MSE alone; then each row trains `optim.steps` further steps from it, all on the same
crops in the same order, with adversarial gradients of the same norm (`loss.adversarial_share`). Judges that no row was
trained on compare the rows on held-out pairs, seed by seed. Started again with the same arguments it goes on where it
stopped; more seeds, rows and pairs may be added. Writes OUT/results.json, report.md, plot.png and crops.png;
`--report` only draws these again.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import write_text

from .ablations.report import write_report
from .ablations.runs import ROWS, list_runs, train_all
from .ablations.scores import evaluate_runs
from .settings.config import TrainConfig
from .settings.config_file import dump_config, load_config


def check_out(out: Path, config: TrainConfig, start_steps: int, start_settings: Sequence[str] = ()) -> None:
    """Refuse a folder whose runs were trained under other settings; remember those of a new one."""
    path = out / "ablation.json"
    own = {"config": dump_config(config), "start_steps": start_steps, "start_settings": list(start_settings)}
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(own, indent=2) + "\n")
    elif json.loads(path.read_text()) != own:
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
    runs = list_runs(config, args.out, args.rows, args.seeds, args.start_steps, args.start_set)
    if not args.report:
        train_all(runs, args.config, args.set, args.jobs)
        evaluate_runs(runs, pairs, config, args.out / "results.json", args.jobs)
    print(write_report(args.out, pairs, config))


def main() -> int:
    """Parse the command line and run the ablation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of every row; optim.steps are the row's steps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-steps", type=int, default=500, help="steps of the start on MSE alone")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="NAME=FOLDER", help="held-out pairs to score by")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="A.B=VALUE", help="for every run")
    parser.add_argument(
        "--start-set", nargs="+", action="extend", default=[], metavar="A.B=VALUE", help="for the starts"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--report", action="store_true", help="write report and pictures again, nothing else")
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
