"""Train a DFOSD LoRA (arXiv 2410.04224, section 3): the generator against MSE, EA-DISTS and a diffusion discriminator.

    python train_tools/train.py --config train_tools/configs/small_cpu.yaml --set data.photos=PHOTOS run.out=OUT
    accelerate launch train_tools/train.py --config ...     (several GPUs)

A run goes on from OUT/checkpoint.pt where there is one. Ctrl-C finishes the step and saves. docs/training_settings.md
says what each setting means and which may change on the way.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from dfosd_core.cli import FAILED, INTERRUPTED, OK
from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import folder_locked, what_failed, write_text

from .loop.checkpoint import CHECKPOINT, read_checkpoint, remove_leftovers
from .loop.device import choose_device, describe_device
from .loop.trainer import BEST_LORA, LAST_LORA, Trainer
from .settings.config import RunConfig, TrainConfig
from .settings.config_file import dump_config, load_config
from .settings.resume_policy import check_resume

CONFIG_FILE = "config.yaml"
OUTPUTS = (LAST_LORA, BEST_LORA, CHECKPOINT, CONFIG_FILE, "metrics.jsonl", "loss.png", "validation.png", "tensorboard")


def make_accelerator(run: RunConfig) -> Accelerator:
    """One process without any configuration, or what `accelerate launch` set up. Autocast is the recipe's own."""
    accelerator = Accelerator(
        cpu=choose_device(run) == "cpu",
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # the others wait while one validates
        ],
    )
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ConfigError(
            f"accelerate is set up for {kind}, which DFOSD does not train with: expected one process or DDP. "
            "Run `accelerate config` again, or give `accelerate launch --multi_gpu`."
        )
    return accelerator


def run(config: TrainConfig, accelerator: Accelerator) -> int:
    """Train, from OUT's checkpoint where there is one; return the exit code.

    Raises ConfigError if another run is training into the same folder.
    """
    if not accelerator.is_main_process:
        return _run(config, accelerator)
    out = config.run.out
    out.mkdir(parents=True, exist_ok=True)
    busy = ConfigError(f"Another run is training into '{out}'. Wait for its end, or set another run.out.")
    with folder_locked(out, busy):
        return _run(config, accelerator)


def _run(config: TrainConfig, accelerator: Accelerator) -> int:
    out = config.run.out

    def say(text: str) -> None:
        if accelerator.is_main_process:
            print(text, flush=True)

    if accelerator.is_main_process:
        remove_leftovers(out)
    accelerator.wait_for_everyone()
    state = read_checkpoint(out)
    if state is not None:
        config = check_resume(state["config"], config, lambda text: say(f"Warning: {text}"))
    say(dump_config(config).rstrip())
    trainer = Trainer(config, accelerator, state, say)
    say(describe_device(accelerator.device, config.run, trainer.networks.base_dtype))
    for note in trainer.networks.notes:
        say(note)
    if accelerator.is_main_process:
        write_text(out / CONFIG_FILE, dump_config(config))
    steps = config.optim.steps
    if state is not None and trainer.step >= steps:
        say(f"'{out}' holds a finished run of {trainer.step} steps. Raise optim.steps to train on.")
        return OK
    if state is not None:
        say(f"Going on from step {trainer.step} of {steps} ('{out / CHECKPOINT}').")
    stopped_by = trainer.fit()
    if stopped_by is not None:
        say(f"Stopped after step {trainer.step} of {steps}; saved. The same command goes on from there.")
    written = [path for name in OUTPUTS if (path := out / name).exists()]
    say("Written: " + ", ".join(str(path) for path in written))
    return OK if stopped_by is None else 128 + stopped_by


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file; train_tools/configs has some")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="A.B=VALUE", help="settings in place of the file's"
    )
    args = parser.parse_args(argv)
    accelerator: Accelerator | None = None
    try:
        config = load_config(args.config, args.set)
        accelerator = make_accelerator(config.run)
        return run(config, accelerator)
    except DfosdError as error:
        print(f"train: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"train: {what_failed(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("train: interrupted; the last checkpoint stands.", file=sys.stderr)
        return INTERRUPTED
    finally:
        if accelerator is not None:
            accelerator.end_training()


if __name__ == "__main__":
    sys.exit(main())
