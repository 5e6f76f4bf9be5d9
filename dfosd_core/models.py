"""Which networks a call uses, and loading them: the embedded ones, or the user's files.

What reads LoRAs and decoders is imported where there is one: the embedded model starts without.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .errors import ConfigError
from .host import Host
from .hosts.own import OwnHost, fast_dtype, load_base, load_default
from .lora.file import DfosdLora, ImportedLora
from .lora.metadata import check_base
from .networks.embedded import DEFAULT_BASE, DEFAULT_WEIGHTS
from .settings import ModelChoice


def load_models(choice: ModelChoice, device: torch.device, *, reusable: bool = True) -> tuple[Host, DfosdLora]:
    """The host, and the LoRA to put on it. reusable: see `OwnHost`.

    Raises DfosdError, one line, if a file is missing, broken or of the wrong kind.
    """
    dtype: torch.dtype = getattr(torch, choice.dtype) if choice.dtype else fast_dtype(device)
    if not choice.decoder:
        return _base_and_lora(choice, dtype, device, reusable)
    from .hosts.light import LightHost
    from .networks.light_decoder import read_decoder

    decoder = read_decoder(choice.decoder, dtype, device)
    host, lora = _base_and_lora(choice, dtype, device, reusable)
    return LightHost(host, decoder), lora


def _base_and_lora(
    choice: ModelChoice, dtype: torch.dtype, device: torch.device, reusable: bool
) -> tuple[OwnHost, DfosdLora]:
    if not choice.lora:
        return load_default(dtype, device, reusable=reusable)
    from .lora.open import open_lora

    if choice.base:
        lora = open_lora(choice.lora)  # first: it is the smaller file
        host = load_base(choice.base, dtype, device, reusable=reusable)
        return host, _with_prompt(lora, host, choice.base)
    host, _ = load_default(dtype, device, reusable=reusable)
    return host, _with_prompt(open_lora(choice.lora), host, DEFAULT_WEIGHTS / DEFAULT_BASE)


def _with_prompt(lora: DfosdLora | ImportedLora, host: OwnHost, base: Path | str) -> DfosdLora:
    """An imported LoRA gets the empty prompt of the base it is used on."""
    if isinstance(lora, DfosdLora):
        return lora
    check_base(lora.metadata.base_layout, host.layout, f"The LoRA of {lora.metadata.source}")
    from .networks.reading import read_empty_prompt

    return lora.with_prompt(read_empty_prompt(base, lora.metadata.base_layout.context_dim))


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
