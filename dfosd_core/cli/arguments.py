"""The command line: which commands there are and what they take. Nothing slow is imported to say so."""

from __future__ import annotations

import argparse
import re
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..image_files import FORMAT_NAMES, FORMATS, QUALITY
from ..settings import UpscaleSettings
from .launched import Launch
from .parser import Parser


def make_parser() -> Parser:
    """What it gives has `command`, that command's `parser` and its arguments."""
    parser = Parser(prog="dfosd", description="One-step diffusion super-resolution.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"dfosd {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, about in (
        ("upscale", _add_upscale, "make images larger and sharper"),
        ("app", _add_app, "the same with pictures and buttons, in the browser"),
        ("info", _add_info, "say what a LoRA or a base model is"),
        ("convert", _add_convert, "turn any LoRA that DFOSD takes into a DFOSD LoRA"),
        ("merge", _add_merge, "write a base model with a LoRA in it"),
        ("export", _add_export, "write a LoRA for other programs' loaders"),
    ):
        command = commands.add_parser(name, help=about, allow_abbrev=False)
        command.set_defaults(parser=command)
        add_arguments(command)
    return parser


def version() -> str:
    """As pyproject.toml says it: that of this folder, or of the package as it was installed."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    text = project.read_text("utf-8") if project.exists() else ""
    stated = re.search(r'^name = "dfosd"\nversion = "(.+)"$', text, re.M)
    if stated:
        return stated[1]
    from importlib.metadata import version as version_of  # a twentieth of a second

    return version_of("dfosd")


def settings_of(given: argparse.Namespace) -> UpscaleSettings:
    """Raises ConfigError for values outside the limits."""
    names = {setting.name for setting in fields(UpscaleSettings)}
    return UpscaleSettings.from_values({name: value for name, value in vars(given).items() if name in names})


def quality_of(given: argparse.Namespace) -> int:
    """Raises ConfigError for a quality that is none."""
    if not 1 <= given.quality <= 100:
        raise ConfigError(f"--quality {given.quality}: expected 1 to 100.")
    return given.quality


def devices_of(given: argparse.Namespace, launch: Launch | None) -> list[str]:
    """Of --devices, numbers as torch calls those GPUs. Raises ConfigError where it contradicts something else."""
    if given.devices is None:
        return []
    devices = [f"cuda:{name}" if name.isdigit() else name for name in (n.strip() for n in given.devices.split(","))]
    if not all(devices):
        raise ConfigError(f"--devices {given.devices}: expected names like 0,1 or cpu,cpu with commas between.")
    if given.device is not None:
        raise ConfigError("give either --device or --devices, not both.")
    if launch is not None:
        raise ConfigError("--devices starts processes, but a launcher has started this one. Leave --devices out.")
    return devices


def _add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit codes: 0 all done; 1 something failed and is reported, the rest is done; 2 wrong arguments; "
        "130 interrupted, 143 terminated"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders with all below them, or quoted patterns like 'in/**/*.jpg'",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=f"a folder, in which subfolders are kept, or for one image a file name; its ending ({', '.join(FORMATS)}) "
        "picks the format. Default: NAME_x4.png beside each input",
    )
    parser.add_argument(
        "--format",
        choices=FORMAT_NAMES,
        help="of all results; same: each as its input is, PNG where that cannot be written (default: png)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        metavar="N",
        default=QUALITY,
        help=f"of JPEG, WebP, AVIF (1 to 100, default {QUALITY})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    parser.add_argument("--quiet", action="store_true", help="report failures only")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and how much memory it takes")
    parser.add_argument(
        "--devices",
        metavar="LIST",
        help="share many images among processes, one for each device: 0,1 (GPUs), cpu,cpu (half of the cores each)",
    )
    settings = parser.add_argument_group("settings")
    for setting in fields(UpscaleSettings):  # `unet_tile` becomes `--unet-tile`
        flag, limits = "--" + setting.name.replace("_", "-"), setting.metadata
        kind: dict[str, Any] = {"choices": limits.get("choices")}
        if "step" in limits:
            kind = {"type": int if isinstance(limits["step"], int) else float, "metavar": "N"}
        settings.add_argument(flag, default=argparse.SUPPRESS, help=_help(setting), **kind)
    _add_model(
        parser.add_argument_group("model"),
        base="an SD 2.1-base: diffusers folder or checkpoint file (default: the embedded one)",
        lora="a LoRA trained on the base: DFOSD's, OSEDiff's, PiSA-SR's, HYPIR's or OMGSR-S's folder "
        "(default: the embedded one)",
    )


def _help(setting: Field[Any]) -> str:
    limits, default = setting.metadata, setting.default
    facts = [f"{limits['min']:g} to {limits['max']:g}"] if "min" in limits else []
    if default is not None:
        facts.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    return f"{limits['help']} ({', '.join(facts)})".replace("%", "%%")


def _add_app(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--out", metavar="FOLDER", help="keep the results here (default: until the app ends)")
    parser.add_argument("--file-mb", type=int, metavar="N", help="largest file taken (default: 200)")
    parser.add_argument("--megapixels", type=int, metavar="N", help="largest result made (default: 100)")
    model = parser.add_argument_group("model")
    model.add_argument("--models", metavar="FOLDER", help="bases and LoRAs to choose from on the page")
    _add_model(model, base="an SD 2.1-base, first choice on the page", lora="a LoRA, first choice on the page")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a LoRA, a checkpoint or a diffusers folder")
    parser.add_argument(
        "--architecture", choices=("sd21",), help="count layers, parameters and operations of the method on SD 2.1"
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="IN", help="OSEDiff's, PiSA-SR's, HYPIR's, OMGSR-S's or an ordinary LoRA")
    _add_target(parser, "the DFOSD LoRA to write, .safetensors")
    usage = parser.add_argument_group("for an ordinary LoRA, which does not say how it is used")
    usage.add_argument("--timestep", type=int, metavar="T", help="the timestep of its one step, 0 to 999")
    usage.add_argument("--rule", metavar="RULE", help="what follows from the prediction: eps-x0 or residual")
    usage.add_argument("--base", metavar="PATH", help="what it was trained on, where that is not SD 2.1-base")
    parser.add_argument(
        "--prompt-embeds", metavar="FILE", help="the embedding it was trained with (default: that of the empty text)"
    )


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", metavar="PATH", help="diffusers folder or checkpoint file (default: the embedded one)"
    )
    parser.add_argument("--lora", metavar="FILE", help="any LoRA that `upscale` takes (default: the embedded one)")
    parser.add_argument("--strength", type=float, default=1.0, metavar="N", help="strength of the LoRA (default: 1)")
    _add_target(parser, "the base to write: a folder or a .safetensors file, as BASE is")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kohya", action="store_true", required=True, help="in kohya's names, for all programs")
    parser.add_argument("file", metavar="IN", help="any LoRA that `upscale` takes")
    parser.add_argument("--base", metavar="PATH", help="what it was trained on; needed if it replaces weights in full")
    _add_target(parser, "the LoRA to write, .safetensors")


def _add_target(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=text)


def _add_model(group: argparse._ArgumentGroup, *, base: str, lora: str) -> None:  # pyright: ignore[reportPrivateUsage]
    group.add_argument("--base", metavar="PATH", help=base)
    group.add_argument("--lora", metavar="FILE", help=lora)
    group.add_argument(
        "--decoder",
        metavar="FILE",
        help="a light decoder instead of the base's own: VOSR's sd21_lwdecoder or TAESD's taesd_decoder",
    )
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps ... (default: a GPU if there is one)")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="the networks' number format (default: the fast one for the device)",
    )
