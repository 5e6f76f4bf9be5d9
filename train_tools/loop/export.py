"""What an exported LoRA says about its training: configuration, base, code."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from dfosd_core.errors import BaseModelMismatchError
from dfosd_core.files import sha256_of
from dfosd_core.lora.metadata import BaseLayout, LoraMetadata
from dfosd_core.networks.embedded import EMBEDDED
from dfosd_core.networks.reading import WEIGHT_FILES

from ..settings.config import TrainConfig

EMBEDDED_NAME = "DFOSD small base"
TRAINED_ON = "DFOSD on "
"""The source of a LoRA that was trained on from another method's begins so."""
ROOT = Path(__file__).parents[2]


def lora_metadata(
    config: TrainConfig, layout: BaseLayout, step: int, base_sha256: str, start: LoraMetadata | None = None
) -> LoraMetadata:
    """The header of the LoRA after `step` steps. The same run gives the same header: no time, no folder names.

    start: of the LoRA that the run began with; another method's stays its source, under its licence.
    """
    base = EMBEDDED_NAME if config.model.base == EMBEDDED else Path(config.model.base).name
    edge = config.data.crop
    return LoraMetadata(
        base_layout=layout,
        timestep=config.model.timestep,
        rank=config.model.rank,
        lora_alpha=config.model.lora_alpha,
        scale=float(config.data.scale),
        base_model=base,
        base_model_sha256=base_sha256,
        train_config=portable_config(config) | {"trained_steps": step},
        git_commit=git_commit(),
        source=f"{TRAINED_ON}{start.source.removeprefix(TRAINED_ON)}" if start and start.source else "",
        source_sha256=start.source_sha256 if start else "",
        license=start.license if start else "",
        extra={"modelspec.title": f"DFOSD x{config.data.scale} for {base}", "modelspec.resolution": f"{edge}x{edge}"},
    )


def portable_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values, every path reduced to its last name."""
    facts: dict[str, Any] = {
        section: {name: _without_folders(value) for name, value in values.items()}
        for section, values in asdict(config).items()
    }
    facts["model"]["base"] = Path(config.model.base).name
    return facts


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):  # data.photos, with weights
        return {Path(folder).name: weight for folder, weight in cast("dict[str, float]", value).items()}
    return value.name if isinstance(value, Path) else value


def base_sha256(path: Path | str) -> str:
    """SHA-256 of the base's weights on disk: a single file's bytes, or those of a folder's UNet."""
    path = Path(path)
    if path.is_dir():
        found = [path / "unet" / name for name in WEIGHT_FILES if (path / "unet" / name).is_file()]
        if not found:
            raise BaseModelMismatchError(f"'{path / 'unet'}' has no weights. Expected {WEIGHT_FILES[0]}.")
        path = found[0]
    return sha256_of(path)


@functools.cache
def git_commit() -> str:
    """The commit of this checkout as the process started, `-dirty` where files differ from it; empty outside one."""
    if not (ROOT / ".git").exists():  # installed: a repository further up would be somebody else's
        return ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
