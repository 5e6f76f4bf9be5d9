"""Weights & Biases beside TensorBoard, where the user asks for it and has it installed."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.files import write_text

ID_FILE = "wandb_id"


class WandbBoard:
    """One run in a project; a resumed training goes on in the same one. config: shown there.

    wandb's own variables count, above all WANDB_MODE (online, offline, disabled). Raises ConfigError, one line.
    """

    def __init__(self, project: str, out: Path, config: Mapping[str, Any], *, resumes: bool) -> None:
        try:
            self.wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(
                f"run.wandb is set, but wandb cannot be imported ({error}): pip install wandb."
            ) from error
        name = out / ID_FILE
        if not (resumes and name.exists()):
            write_text(name, secrets.token_hex(4) + "\n")
        number = name.read_text().strip()
        try:
            self.run = self.wandb.init(
                project=project, name=out.name, id=number, resume="allow", dir=str(out), config=dict(config)
            )
        except Exception as error:  # its own errors, and those of its network and login
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ConfigError(
                f"run.wandb: Weights & Biases cannot be reached ({reason}). Log in, or set WANDB_MODE=offline."
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Steps that a resumed run repeats are dropped there: they were logged before."""
        self.run.log(dict(values), step=step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """An image (3, H, W) in [0, 1]."""
        pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
        self.run.log({name: self.wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        """Hand over what is still to be sent."""
        self.run.finish()
