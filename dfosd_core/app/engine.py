"""The standalone program's `Engine`: networks in this process, files read and written as `dfosd upscale` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import ConfigError
from ..hosts.own import OwnHost
from ..image_files.read import read_image
from ..image_files.tensors import like, to_tensor
from ..image_files.write import check_target, write_image
from ..lora.file import DfosdLora
from ..models import ModelChoice, load_models
from ..pipeline import upscale_attached
from ..tiles.run import ProgressCallback
from .model_files import ModelFiles
from .runner import Request, UpscaleFile


class LocalEngine:
    """Keeps the networks of the last run: the next one with the same choice starts at once."""

    def __init__(self, files: ModelFiles, device: torch.device, dtype: str | None = None) -> None:
        self._files = files
        self._device = device
        self._dtype = dtype
        self._loaded: tuple[object, OwnHost, DfosdLora] | None = None

    @contextmanager
    def __call__(self, request: Request) -> Iterator[UpscaleFile]:
        """Raises DfosdError, one line, for a base or LoRA that cannot be used."""
        host, lora = self._models(request)

        def upscale_file(source: Path, target: Path, progress: ProgressCallback) -> tuple[int, int]:
            picture = read_image(source)
            size = request.settings.output_size(*picture.size)
            check_target(target, picture, size)
            image = to_tensor(picture).to(self._device)
            output = upscale_attached(image, host, lora, request.settings, progress)
            write_image(target, like(picture, output.cpu()))
            return size

        with host.lora(lora, request.settings.strength):
            yield upscale_file

    def _models(self, request: Request) -> tuple[OwnHost, DfosdLora]:
        base = self._files.base(request.base)
        lora = self._files.lora(request.lora)
        if base and not lora:
            raise ConfigError(
                f"The embedded LoRA fits the embedded base only, found base '{base.name}'. "
                "Choose a LoRA that was trained on that base."
            )
        wanted = [(path, path.stat().st_mtime_ns) if path else None for path in (base, lora)]
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # free the old networks before the new ones come
            choice = ModelChoice(base=str(base) if base else None, lora=str(lora) if lora else None, dtype=self._dtype)
            self._loaded = (wanted, *load_models(choice, self._device))
        return self._loaded[1:]
