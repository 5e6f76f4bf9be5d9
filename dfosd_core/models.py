"""Which networks a call uses, and loading them: the embedded ones, or the user's files."""

from __future__ import annotations

import torch

from .errors import ConfigError
from .hosts.own import OwnHost, fast_dtype, load_base, load_default
from .lora.file import DfosdLora, load_lora
from .settings import ModelChoice


def load_models(choice: ModelChoice, device: torch.device) -> tuple[OwnHost, DfosdLora]:
    """Raises DfosdError, one line, if a file is missing, broken or of the wrong kind."""
    dtype: torch.dtype = getattr(torch, choice.dtype) if choice.dtype else fast_dtype(device)
    if choice.base and choice.lora:
        lora = load_lora(choice.lora)
        return load_base(choice.base, dtype, device), lora
    host, lora = load_default(dtype, device)
    return host, load_lora(choice.lora) if choice.lora else lora


def pick_device(name: str | None) -> torch.device:
    """The named one, or a GPU if there is one. Raises ConfigError if it cannot be used."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used: {reason} Leave --device out or name another.") from error
    return device
