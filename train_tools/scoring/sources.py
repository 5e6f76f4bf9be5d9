"""Where the images that are scored come from: a model that runs here, bicubic, or a folder that someone has made."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from dfosd_core.attach import attached
from dfosd_core.errors import ConfigError
from dfosd_core.image_files import is_image_name
from dfosd_core.models import load_models, pick_device
from dfosd_core.networks.embedded import DEFAULT_BASE, DEFAULT_LORA, DEFAULT_WEIGHTS
from dfosd_core.pipeline import UpscaleSettings
from dfosd_core.settings import ModelChoice

from .pair_files import Sample, by_stem
from .pictures import read_image, save_picture, to_picture
from .sets import digest
from .validation import Method, restored_by


class Source(Protocol):
    """A method's images."""

    folder: Path

    def settings(self) -> Mapping[str, Any]:
        """What decides how they look, as JSON has it; of weights and images their hashes."""
        ...

    def image(self, sample: Sample) -> Tensor:
        """(1, 3, H, W) in [0, 1], in whole levels of 8 bit. Raises ConfigError, one line."""
        ...

    def path(self, name: str) -> Path:
        """The file of an image that has been asked for."""
        ...

    def forget(self, names: Sequence[str]) -> None:
        """Make the images of these names anew when they are asked for, where this source makes them."""
        ...


class FolderSource:
    """Images made elsewhere, named like the set's (the ending may differ)."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        if not folder.is_dir():
            raise ConfigError(f"Expected a folder with the results for each image of the set, found no '{folder}'.")
        self.folder, found = folder, by_stem(folder)
        if missing := [name for name in names if name not in found]:
            more = ", ..." if len(missing) > 3 else ""
            raise ConfigError(
                f"'{folder}' lacks {len(missing)} of {len(names)} results: {', '.join(missing[:3])}{more}. Expected a "
                "file named like each image of the set."
            )
        self.files = {name: found[name] for name in names}

    def settings(self) -> Mapping[str, Any]:
        return {"images_sha256": digest(self.files.values())}

    def image(self, sample: Sample) -> Tensor:
        image = read_image(self.files[sample.name])
        expected = [edge * sample.scale for edge in sample.x_lq.shape[-2:]]
        if list(image.shape[-2:]) != expected:
            raise ConfigError(
                f"'{self.files[sample.name]}' is {image.shape[3]}x{image.shape[2]}, expected {expected[1]}x"
                f"{expected[0]}, {sample.scale} times the set's small image."
            )
        return image

    def path(self, name: str) -> Path:
        return self.files[name]

    def forget(self, names: Sequence[str]) -> None:
        """Nothing: they are somebody else's."""


class KeptSource:
    """What a method makes here, kept as PNG files in `folder`, so that nothing is made twice."""

    def __init__(self, method: Method, folder: Path, settings: Mapping[str, Any]) -> None:
        self.method, self.folder, self._settings = method, folder, settings

    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def image(self, sample: Sample) -> Tensor:
        path = self.path(sample.name)
        if not path.exists():
            save_picture(to_picture(self.method(sample)), path)
        return read_image(path)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def forget(self, names: Sequence[str]) -> None:
        """Remove them: where no scores say what made them, it may have been other weights."""
        for name in names:
            self.path(name).unlink(missing_ok=True)


class Model:
    """The user's base and LoRA as a method; loaded with the first image, for a finished run needs none."""

    def __init__(self, choice: ModelChoice, settings: UpscaleSettings, stack: contextlib.ExitStack) -> None:
        self.choice, self.upscale_settings, self.stack = choice, settings, stack
        self.device = pick_device(choice.device)
        self._method: Method | None = None

    def __call__(self, sample: Sample) -> Tensor:
        """As `dfosd upscale` would make it."""
        if self._method is None:
            host, lora = load_models(self.choice, self.device)
            ready = self.stack.enter_context(attached(host, lora, self.upscale_settings))
            self._method = restored_by(ready, lora, self.upscale_settings)
        return self._method(replace(sample, x_lq=sample.x_lq.to(self.device)))

    def settings(self) -> Mapping[str, Any]:
        """Hashes of the files, and all that changes a result."""
        base = Path(self.choice.base) if self.choice.base else DEFAULT_WEIGHTS / DEFAULT_BASE
        lora = Path(self.choice.lora) if self.choice.lora else DEFAULT_WEIGHTS / DEFAULT_LORA
        chosen = {name: value for name, value in asdict(self.upscale_settings).items() if value is not None}
        decoder = {"decoder_sha256": _weights_digest(Path(self.choice.decoder))} if self.choice.decoder else {}
        return {
            "lora_sha256": _weights_digest(lora),
            "base_sha256": _weights_digest(base),
            "dtype": self.choice.dtype or "fast",
            "device": self.device.type,
            **decoder,
            **{name: value for name, value in chosen.items() if name != "scale"},
        }


def _weights_digest(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    if not path.exists():
        raise ConfigError(f"There is no '{path}'. Expected a file or a folder with weights.")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return digest(files)


def folders_beside(folder: Path, sides: Collection[str]) -> list[Path]:
    """Other methods' folders in the set's own."""
    beside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in sides)
    return [path for path in beside if any(is_image_name(file) for file in path.iterdir())]
