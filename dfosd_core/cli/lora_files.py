"""`dfosd convert`, `dfosd merge` and `dfosd export`: a LoRA file in, another file out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError, DfosdError, LoraFormatError, printable
from ..exchange.base_files import open_base
from ..exchange.convert import convert, usage_of
from ..exchange.export import export, needs_base
from ..exchange.merge import merge
from ..files import make_folder, reason_of
from ..lora.changes import LoraChanges
from ..lora.file import ImportedLora, save_lora, write_tensors
from ..lora.open import open_lora
from ..networks.embedded import DEFAULT_BASE, DEFAULT_LORA, DEFAULT_WEIGHTS
from ..settings import UpscaleSettings
from . import OK
from .streams import complain


def run_convert(given: argparse.Namespace) -> int:
    """Returns an exit code. Raises DfosdError, one line."""
    out = _target(given.output, "a DFOSD LoRA is a safetensors file")
    found = convert(
        Path(given.file),
        usage_of(given.timestep, given.rule),
        prompt_embeds=_path(given.prompt_embeds),
        base=_path(given.base),
    )
    _note(found.notes)
    _writing(out, lambda: save_lora(out, found.lora))
    prompt = "the prompt is the empty text" if isinstance(found.lora, ImportedLora) else "with its prompt embedding"
    print(f"{printable(str(out))}: {_usage(found.lora)}, {prompt}.")
    return OK


def run_merge(given: argparse.Namespace) -> int:
    """Returns an exit code. Raises DfosdError, one line."""
    _target(given.output)
    lora = open_lora(given.lora or DEFAULT_WEIGHTS / DEFAULT_LORA)  # first: it is the smaller file
    base = open_base(given.base or DEFAULT_WEIGHTS / DEFAULT_BASE)
    out = _target(given.output, "" if base.path.is_dir() else "the base is a single file")
    strength = UpscaleSettings.from_values({"strength": given.strength}).strength
    _writing(out, lambda: merge(base, lora, strength, out))
    print(
        f"{printable(str(out))}: the base with the LoRA in it. It is an upscaler, {_usage(lora)}; an ordinary sampler "
        "makes nothing useful of it."
    )
    return OK


def run_export(given: argparse.Namespace) -> int:
    """Returns an exit code. Raises DfosdError, one line."""
    out = _target(given.output, "a LoRA is a safetensors file")
    lora = open_lora(given.file)
    if given.base and not needs_base(lora):
        raise ConfigError(f"'{given.file}' replaces no weights in full, so no base is needed. Leave --base out.")
    found = export(lora, open_base(given.base) if given.base else None)
    _note(found.losses)
    _writing(out, lambda: write_tensors(out, found.tensors, found.header))
    print(f"{printable(str(out))}: an ordinary LoRA of {len(found.tensors)} tensors.")
    return OK


def _usage(lora: LoraChanges) -> str:
    return f"one step at timestep {lora.metadata.timestep}, rule {lora.metadata.rule}"


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _target(text: str, why_safetensors: str = "") -> Path:
    out = Path(text)
    if out.exists():
        raise ConfigError(f"-o {out}: exists and was not touched. Name another, or remove it first.")
    if why_safetensors and out.suffix != ".safetensors":
        raise ConfigError(f"-o {out}: expected a name ending in .safetensors, as {why_safetensors}.")
    return out


def _writing(out: Path, write: Callable[[], object]) -> None:
    make_folder(out.parent, LoraFormatError)
    try:
        write()
    except OSError as error:
        raise DfosdError(f"'{out}' cannot be written: {reason_of(error)}. Nothing was left of it.") from error


def _note(lines: list[str]) -> None:
    for line in lines:
        complain(f"{line}.")
