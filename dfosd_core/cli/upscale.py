"""`dfosd upscale`: the LoRA merged once for many images; one that fails is reported, the rest goes on."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DfosdError
from ..hosts.diffusers import DiffusersHost, fast_dtype, load_base, load_default
from ..lora.file import DfosdLora, load_lora
from ..pipeline import UpscaleSettings, upscale_attached
from ..tiled_run import ProgressCallback, is_out_of_memory
from .exit_codes import FAILED, INTERRUPTED, OK, TERMINATED
from .files import read_image
from .picture import Picture
from .plan import Job
from .progress import Bars
from .writing import check_target, write_image

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. 601: how much each colour adds to a grey."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which networks, where and how. None: the embedded ones, a GPU if there is one, its fast format."""

    base: str | None = None
    lora: str | None = None
    device: str | None = None
    dtype: str | None = None


def run_jobs(
    jobs: list[Job],
    settings: UpscaleSettings,
    choice: ModelChoice,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Upscale, write, report. Returns an exit code. Raises DfosdError if no model can be had."""
    device = _device(choice.device)
    host, lora = _load(choice, device)
    done = failed = 0
    bars = Bars(len(jobs), quiet=quiet)
    try:
        with _terminable(), host.lora(lora, settings.strength):
            for job in jobs:
                started = time.perf_counter()
                try:
                    with bars.image(job.source.name) as tiles:
                        height, width = _do(job, host, lora, device, settings, overwrite, tiles)
                except (DfosdError, RuntimeError, MemoryError) as error:
                    failed += 1
                    print(f"dfosd: {_complaint(job, error)}", file=sys.stderr)
                else:
                    done += 1
                    seconds = time.perf_counter() - started
                    if not quiet:
                        bars.say(f"{job.source} -> {job.target} ({width}x{height}, {seconds:.1f} s)")
    except (KeyboardInterrupt, _TerminatedError) as stop:
        left = len(jobs) - done - failed
        print(
            f"dfosd: stopped; {done} of {len(jobs)} images are done, {left} left, no half file.",
            file=sys.stderr,
        )
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    finally:
        bars.close()
    return FAILED if failed else OK


def _do(
    job: Job,
    host: DiffusersHost,
    lora: DfosdLora,
    device: torch.device,
    settings: UpscaleSettings,
    overwrite: bool,
    progress: ProgressCallback,
) -> tuple[int, int]:
    """One image from file to file; returns the result's (height, width)."""
    picture = read_image(job.source)
    size = settings.output_size(*picture.size)
    check_target(job.target, picture, size)
    image = upscale_attached(to_tensor(picture).to(device), host, lora, settings, progress)
    write_image(job.target, like(picture, image.cpu()), overwrite=overwrite)
    return size


def to_tensor(picture: Picture) -> Tensor:
    """(1, H, W, 3 or 4) float32 in [0, 1], as the pipeline takes it; grey becomes three equal colours."""
    samples = picture.with_three_colors().samples
    return torch.from_numpy(samples.astype(np.float32) / np.iinfo(samples.dtype).max)[None]


def like(picture: Picture, image: Tensor) -> Picture:
    """The pipeline's (1, h, w, 3 or 4) in `picture`'s depth, grey where `picture` is, with its metadata."""
    values = image[0].numpy()
    if picture.is_grey:
        values = np.concatenate([values[..., :3] @ _LUMA[:, None], values[..., 3:]], axis=2)
    top = np.iinfo(picture.samples.dtype).max
    samples = np.rint(np.clip(values, 0.0, 1.0) * np.float32(top)).astype(picture.samples.dtype)
    return replace(picture, samples=samples)


def _load(choice: ModelChoice, device: torch.device) -> tuple[DiffusersHost, DfosdLora]:
    dtype: torch.dtype = getattr(torch, choice.dtype) if choice.dtype else fast_dtype(device)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    if choice.base and choice.lora:
        lora = load_lora(choice.lora)
        return load_base(choice.base, dtype, device), lora
    host, lora = load_default(dtype, device)
    return host, load_lora(choice.lora) if choice.lora else lora


def _device(name: str | None) -> torch.device:
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


def _complaint(job: Job, error: Exception) -> str:
    if isinstance(error, DfosdError):
        text = str(error)
        return text if Path(job.source).name in text or job.target.name in text else f"'{job.source}': {text}"
    if is_out_of_memory(error):
        return (
            f"'{job.source}': out of memory. Use smaller tiles (--unet-tile 512 --vae-tile 512), "
            "a smaller --scale, or --device cpu."
        )
    raise error


class _TerminatedError(BaseException):
    """SIGTERM, as an exception, so that the same clean-up runs as after Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
