"""`dfosd upscale`: the LoRA merged once for many images; one that fails is reported, the rest goes on."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch

from ..errors import DfosdError
from ..exit_codes import FAILED, INTERRUPTED, OK, TERMINATED
from ..hosts.own import OwnHost
from ..image_files.read import read_image
from ..image_files.tensors import like, to_tensor
from ..image_files.write import check_target, write_image
from ..lora.file import DfosdLora
from ..models import ModelChoice, load_models, pick_device
from ..pipeline import UpscaleSettings, upscale_attached
from ..tiles.run import ProgressCallback, is_out_of_memory
from .plan import Job
from .progress import Bars


def run_jobs(
    jobs: list[Job],
    settings: UpscaleSettings,
    choice: ModelChoice,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Upscale, write, report. Returns an exit code. Raises DfosdError if no model can be had."""
    device = pick_device(choice.device)
    host, lora = load_models(choice, device)
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
    host: OwnHost,
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
