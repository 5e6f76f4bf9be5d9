"""The `dfosd` command. Nothing slow is imported before there is work to do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigError, DfosdError
from ..files import what_failed
from ..settings import ModelChoice
from . import FAILED, INTERRUPTED, OK, USAGE
from .app import run_app
from .arguments import devices_of, make_parser, quality_of, settings_of
from .caches import bound_caches
from .launched import Launch, find_launch, worst_of_all
from .parser import with_hint
from .plan import Job, make_plan
from .streams import complain, give_up, prepare_streams

if TYPE_CHECKING:
    from .work import Task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    prepare_streams()
    bound_caches()
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        return _COMMANDS[given.command](given)
    except ConfigError as error:
        complain(with_hint(str(error), given.parser.prog))
        return USAGE
    except DfosdError as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, and Python would fail over it again at exit
        give_up(sys.stdout)
        return FAILED
    except OSError as error:
        complain(what_failed(error))
        return FAILED
    except ModuleNotFoundError as error:
        if (error.name or "dfosd_core").startswith("dfosd_core"):
            raise
        install = "pip install 'dfosd[app]'"
        complain(f"The package '{error.name}' is not installed. Install what the command needs: {install}.")
        return FAILED


def _upscale(given: argparse.Namespace) -> int:
    launch = find_launch()
    devices = devices_of(given, launch)
    choice = ModelChoice(
        base=given.base, lora=given.lora, device=given.device, dtype=given.dtype, decoder=given.decoder
    )
    settings = settings_of(given)
    share = (launch.rank, launch.world_size) if launch else (0, 1)
    quality = quality_of(given)
    plan = make_plan(
        given.inputs,
        given.output,
        settings,
        overwrite=given.overwrite,
        form=given.format,
        share=share,
        dry=given.dry_run,
    )
    problems, notes = ([], []) if launch and launch.rank else (plan.problems, plan.notes)  # one process says them
    for line in problems if given.quiet else notes + problems:
        complain(line)
    done = OK
    if plan.jobs:
        from .work import Task

        task = Task(settings=settings, choice=choice, overwrite=given.overwrite, quality=quality)
        done = _dry_run(plan.jobs, task) if given.dry_run else _run(plan.jobs, task, devices, launch, given)
    done = done or (FAILED if problems else OK)
    return worst_of_all(done, launch) if launch and done in (OK, FAILED) else done


def _dry_run(jobs: list[Job], task: Task) -> int:
    from .dry_run import describe_jobs

    return describe_jobs(jobs, task)


def _run(jobs: list[Job], task: Task, devices: list[str], launch: Launch | None, given: argparse.Namespace) -> int:
    from .upscale import run_jobs

    return run_jobs(jobs, task, devices, launch=launch, quiet=given.quiet)


def _info(given: argparse.Namespace) -> int:
    if (given.file is None) == (given.architecture is None):
        raise ConfigError("give either a FILE or --architecture, not both and not neither.")
    from .info import describe_architecture, describe_file

    print(describe_architecture(given.architecture) if given.architecture else describe_file(given.file))
    return OK


def _lora_files(given: argparse.Namespace) -> int:
    from . import lora_files

    runs = {"convert": lora_files.run_convert, "merge": lora_files.run_merge, "export": lora_files.run_export}
    return runs[given.command](given)


_COMMANDS = {
    "upscale": _upscale,
    "info": _info,
    "app": run_app,
    "convert": _lora_files,
    "merge": _lora_files,
    "export": _lora_files,
}
