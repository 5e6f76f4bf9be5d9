"""Flags that commands share. Those of `UpscaleSettings` take names, limits, defaults and help from its fields."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import Any

from ..settings import UpscaleSettings


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One flag a field: `unet_tile` becomes `--unet-tile`."""
    group = parser.add_argument_group("settings")
    for setting in fields(UpscaleSettings):
        limits = setting.metadata
        kind: dict[str, Any]
        if "choices" in limits:
            kind = {"choices": limits["choices"]}
        else:
            kind = {"type": int if isinstance(limits["step"], int) else float, "metavar": "N"}
        group.add_argument(
            "--" + setting.name.replace("_", "-"), default=argparse.SUPPRESS, help=_help(setting), **kind
        )


def settings_of(arguments: argparse.Namespace) -> UpscaleSettings:
    """Raises ConfigError for values outside the limits."""
    names = {setting.name for setting in fields(UpscaleSettings)}
    return UpscaleSettings.from_values({name: value for name, value in vars(arguments).items() if name in names})


def add_device(group: argparse._ArgumentGroup) -> None:  # pyright: ignore[reportPrivateUsage]
    """Where and in which number format the networks compute."""
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps ... (default: a GPU if there is one)")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="the networks' number format (default: the fast one for the device)",
    )


def _help(setting: Field[Any]) -> str:
    limits = setting.metadata
    facts = [f"{limits['min']:g} to {limits['max']:g}"] if "min" in limits else []
    if setting.default is not None:
        default = setting.default
        facts.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    return f"{limits['help']} ({', '.join(facts)})".replace("%", "%%")
