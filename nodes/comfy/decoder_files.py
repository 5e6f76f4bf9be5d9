"""Light decoders in ComfyUI's model folders: `models/dfosd`, and `models/vae_approx`, where TAESD lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as model_management  # pyright: ignore[reportMissingImports]
import folder_paths  # pyright: ignore[reportMissingImports]
import torch

from ...dfosd_core.errors import BaseModelMismatchError
from ...dfosd_core.files import stamp_of
from ...dfosd_core.host import Host
from ...dfosd_core.hosts.light import LightHost
from ...dfosd_core.networks.light_decoder import LightDecoder, is_decoder, read_decoder
from ...dfosd_core.settings import FULL_DECODER

DECODER_HELP = (
    "full: the VAE's own decoder. Light decoders from models/dfosd or models/vae_approx, VOSR's sd21_lwdecoder or "
    "TAESD's taesd_decoder, take less time and memory."
)
FOLDERS = ("dfosd", "vae_approx")


def decoder_names() -> list[str]:
    """The names to choose from; of two of the same name the first is meant."""
    names = [
        name for folder in FOLDERS for name in folder_paths.get_filename_list(folder) if is_decoder_name(folder, name)
    ]
    return [FULL_DECODER, *dict.fromkeys(names)]


def is_decoder_name(folder: str, name: str) -> bool:
    """Whether this file of one of the host's model folders is a light decoder, by its content."""
    path = folder_paths.get_full_path(folder, name)
    return bool(path) and is_decoder(Path(path))


def decoder_fingerprint(name: str | None) -> str:
    """As `lora_fingerprint`."""
    try:
        return "" if name in (None, FULL_DECODER) else str(stamp_of(_path(name or "")))
    except (BaseModelMismatchError, OSError):
        return ""


def _path(name: str) -> Path:
    for folder in FOLDERS:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return Path(path)
    raise BaseModelMismatchError(
        f"There is no decoder '{name}' in models/dfosd or models/vae_approx. Put it there, or choose another, "
        "and press R."
    )


class DecoderFile:
    """The decoder that was read last, read anew when its file has changed."""

    def __init__(self) -> None:
        self._read_from: tuple[object, ...] = ()
        self._decoder: LightDecoder | None = None

    def around(self, host: Host, name: str, vae: Any) -> Host:
        """`host` with the decoder of this name, in the number format of `vae`, the connected one; or `host` itself.

        Raises BaseModelMismatchError where it cannot be used.
        """
        if name == FULL_DECODER:
            self._read_from, self._decoder = (), None
            return host
        path, device = _path(name), model_management.get_torch_device()
        dtype: torch.dtype = getattr(vae, "vae_dtype", torch.float32)  # the embedded model comes without a VAE
        read_from = (*stamp_of(path), str(device), dtype)
        if self._decoder is None or read_from != self._read_from:
            self._decoder = read_decoder(path, dtype, device)
            self._read_from = read_from
        return LightHost(host, self._decoder)
