"""The standalone program's `Engine`: networks in this process, files read and written as `dfosd upscale` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from ..allocator import keep_freed_memory
from ..attach import attached
from ..freed_memory import give_back_freed_memory
from ..host import Host
from ..lora.file import DfosdLora
from ..models import load_models
from ..settings import ModelChoice
from ..upscale_file import upscale_file
from .model_files import ModelFiles
from .runner import Request, UpscaleFile


class LocalEngine:
    """Keeps the networks of the last run: the next one with the same choice starts at once."""

    def __init__(self, files: ModelFiles, device: torch.device, dtype: str | None = None) -> None:
        self._files = files
        self._device = device
        self._dtype = dtype
        self._loaded: tuple[object, Host, DfosdLora] | None = None
        keep_freed_memory()

    @contextmanager
    def __call__(self, request: Request) -> Iterator[UpscaleFile]:
        """Raises DfosdError, one line, for a base or LoRA that cannot be used."""
        host, lora = self._models(request)
        try:
            with attached(host, lora, request.settings) as host:
                yield partial(upscale_file, host=host, lora=lora, settings=request.settings, device=self._device)
        finally:
            give_back_freed_memory()  # the page may stay open for days

    def _models(self, request: Request) -> tuple[Host, DfosdLora]:
        base = self._files.base(request.base)
        lora = self._files.lora(request.lora)
        names = {"base": base, "lora": lora, "decoder": self._files.decoder(request.decoder)}
        choice = ModelChoice(**{name: str(path) if path else None for name, path in names.items()}, dtype=self._dtype)
        wanted = [(path, path.stat().st_mtime_ns) if path else None for path in names.values()]
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # free the old networks before the new ones come
            self._loaded = (wanted, *load_models(choice, self._device))
        return self._loaded[1:]
