"""The `dfosd` command's arguments. Nothing slow is imported before there is work to do."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, DfosdError
from ..exit_codes import FAILED, INTERRUPTED, OK, USAGE
from ..image_files.formats import FORMATS
from ..settings import ModelChoice
from .app import add_app, run_app
from .options import add_device, add_settings, settings_of
from .plan import make_plan

_EXIT_CODES = (
    "exit codes: 0 all done; 1 something failed and is reported, the rest is done; 2 wrong arguments; "
    "130 interrupted, 143 terminated"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(format="dfosd: %(message)s", level=logging.WARNING)
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        return _COMMANDS[given.command](given)
    except ConfigError as error:
        given.parser.print_usage(sys.stderr)
        print(f"dfosd: {error}", file=sys.stderr)
        return USAGE
    except DfosdError as error:
        print(f"dfosd: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("dfosd: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, and Python would fail over it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _upscale(given: argparse.Namespace) -> int:
    choice = ModelChoice(base=given.base, lora=given.lora, device=given.device, dtype=given.dtype)
    settings = settings_of(given)
    plan = make_plan(given.inputs, given.output, settings, overwrite=given.overwrite)
    if not given.quiet:
        for note in plan.notes:
            print(f"dfosd: {note}", file=sys.stderr)
    for problem in plan.problems:
        print(f"dfosd: {problem}", file=sys.stderr)
    done = OK
    if plan.jobs:
        from .upscale import run_jobs

        done = run_jobs(plan.jobs, settings, choice, overwrite=given.overwrite, quiet=given.quiet)
    return done or (FAILED if plan.problems else OK)


def _info(given: argparse.Namespace) -> int:
    if (given.file is None) == (given.architecture is None):
        raise ConfigError("give either a FILE or --architecture, not both and not neither.")
    from .info import describe_architecture, describe_file

    print(describe_architecture(given.architecture) if given.architecture else describe_file(given.file))
    return OK


_COMMANDS = {"upscale": _upscale, "info": _info, "app": run_app}


def version() -> str:
    """As pyproject.toml says it: that of this folder, or of the package as it was installed."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    stated = (
        re.search(r'^name = "dfosd"\nversion = "(.+)"$', project.read_text("utf-8"), re.M) if project.exists() else None
    )
    return stated[1] if stated else importlib.metadata.version("dfosd")


def make_parser() -> argparse.ArgumentParser:
    """The command line of `dfosd`; what it gives has `command` and that command's arguments."""
    parser = argparse.ArgumentParser(
        prog="dfosd", description="One-step diffusion super-resolution.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dfosd {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_upscale(
        commands.add_parser("upscale", help="make images larger and sharper", allow_abbrev=False, epilog=_EXIT_CODES)
    )
    add_app(commands.add_parser("app", help="the same with pictures and buttons, in the browser", allow_abbrev=False))
    info = commands.add_parser("info", help="say what a LoRA or a base model is", allow_abbrev=False)
    info.add_argument("file", nargs="?", metavar="FILE", help="a LoRA, a checkpoint or a diffusers folder")
    info.add_argument(
        "--architecture",
        choices=("sd21",),
        help="count layers, parameters and operations of the method on SD 2.1",
    )
    info.set_defaults(parser=info)
    return parser


def _add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(parser=parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders of images, or quoted patterns like 'in/**/*.jpg'",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=f"a folder, or for one image a file name; its ending ({', '.join(FORMATS)}) picks the format. "
        "Default: NAME_x4.png beside each input",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    parser.add_argument("--quiet", action="store_true", help="report failures only")
    add_settings(parser)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--base",
        metavar="PATH",
        help="an SD 2.1-base: diffusers folder or checkpoint file (default: the embedded one)",
    )
    model.add_argument("--lora", metavar="FILE", help="a DFOSD LoRA trained on the base (default: the embedded one)")
    add_device(model)
