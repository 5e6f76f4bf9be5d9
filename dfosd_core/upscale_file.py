"""A file in, a larger file out: all the work on one image, for the command, the app and the WebUI alike.

torch and Pillow are imported when there is an image to upscale: command lines and panels start without them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DfosdError, NumericError, printable
from .files import reason_of
from .image_files import QUALITY

if TYPE_CHECKING:
    import torch

    from .host import Host
    from .image_files.picture import Picture
    from .lora.file import DfosdLora
    from .settings import UpscaleSettings
    from .tiles.run import ProgressCallback

logger = logging.getLogger("dfosd")

PHASES = {"encode": "reading", "unet": "restoring", "decode": "painting"}
"""What the phases of `Progress` are called before people."""


def upscale_file(
    source: Path,
    target: Path,
    progress: ProgressCallback,
    *,
    host: Host,
    lora: DfosdLora,
    settings: UpscaleSettings,
    device: torch.device,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Upscale `source` into `target`, which appears whole or not at all; returns its (height, width).

    `host` has the LoRA attached and computes on `device`. What `target`'s format cannot hold is refused before any
    computing. Raises DfosdError, one line; what `progress` raises passes through, and so does running out of memory.
    """
    picture = read_source(source, target, settings)
    larger = upscale_picture(picture, progress, host=host, lora=lora, settings=settings, device=device)
    write_result(target, larger, overwrite=overwrite)
    return larger.size


def read_source(source: Path, target: Path, settings: UpscaleSettings) -> Picture:
    """Decode `source`. Raises DfosdError, one line, if that fails or `target`'s format cannot hold the result."""
    from .image_files.read import read_image
    from .image_files.write import check_target

    picture = read_image(source, sequences=True)
    check_target(target, picture, settings.output_size(*picture.size))
    return picture


def write_result(target: Path, larger: Picture, *, overwrite: bool = False, quality: int = QUALITY) -> None:
    """Write `target`, whole or not at all. Raises ImageFileError, one line, also if it exists by now.

    `quality`: of JPEG, WebP and AVIF, 1 to 100.
    """
    from .image_files.write import write_image

    write_image(target, larger, overwrite=overwrite, quality=quality)


def upscale_picture(
    picture: Picture,
    progress: ProgressCallback,
    *,
    host: Host,
    lora: DfosdLora,
    settings: UpscaleSettings,
    device: torch.device,
) -> Picture:
    """The larger picture, with the bits, the grey and the metadata of `picture`. Otherwise as `upscale_file`.

    Frames and pages that follow are upscaled one by one. Raises NumericError instead of returning an image that is
    black where numbers have overflowed.
    """
    upscale = partial(_upscale_one, host=host, lora=lora, settings=settings, device=device)
    if picture.sequence is None:
        return upscale(picture, progress)
    frames = (replace(picture, sequence=None), *picture.sequence.following)
    first, *others = (upscale(frame, _part_of(progress, i, len(frames))) for i, frame in enumerate(frames))
    return replace(first, sequence=replace(picture.sequence, following=tuple(others)))


def _part_of(progress: ProgressCallback, number: int, frames: int) -> ProgressCallback:
    """The progress of one frame as part of that of all."""
    return lambda now: progress(replace(now, done=now.done + number * now.total, total=now.total * frames))


def _upscale_one(
    picture: Picture,
    progress: ProgressCallback,
    *,
    host: Host,
    lora: DfosdLora,
    settings: UpscaleSettings,
    device: torch.device,
) -> Picture:
    from .image_files.tensors import to_picture, to_tensor
    from .images import is_finite
    from .pipeline import upscale_attached

    output = upscale_attached(to_tensor(picture).to(device), host, lora, settings, progress)
    if not is_finite(output):
        raise NumericError(
            "The networks' output is not finite (NaN): half precision overflows here. "
            "Use --dtype float32; start a WebUI with --no-half-vae, or with --no-half."
        )
    metadata = picture.metadata.placed(settings.placement(*picture.size))
    return to_picture(output, like=replace(picture, metadata=metadata))


def explain(error: Exception, *files: Path) -> str:
    """One line for a person. Where it names none of `files`, the first one's name is put before it.

    What nobody has foreseen goes to the log whole.
    """
    from .tiles.run import MEMORY_ADVICE, is_out_of_memory

    if isinstance(error, DfosdError):
        line = str(error)
    elif is_out_of_memory(error):
        line = f"Out of memory. {MEMORY_ADVICE}"
    elif isinstance(error, OSError):
        line = f"The result cannot be kept: {reason_of(error)}."
    else:
        logger.error("An unexpected error.", exc_info=error)
        reason = " ".join(str(error).split()) or type(error).__name__
        line = f"Something unexpected went wrong: {reason}. The log says more."
    if not files or any(printable(file.name) in line for file in files):
        return line
    return f"'{files[0]}': {line}"
