"""`dfosd upscale`: the LoRA merged once for many images; one that fails is reported, the rest goes on."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import NoReturn

from ..attach import attached
from ..errors import DfosdError
from ..models import load_models, pick_device
from ..settings import ModelChoice, UpscaleSettings
from ..tiles.run import is_out_of_memory
from ..upscale_file import explain, upscale_file
from . import FAILED, INTERRUPTED, OK, TERMINATED
from .plan import Job
from .progress import Bars


def run_jobs(
    jobs: list[Job], settings: UpscaleSettings, choice: ModelChoice, *, overwrite: bool = False, quiet: bool = False
) -> int:
    """Upscale, write, report. Returns an exit code. Raises DfosdError if no model can be had."""
    device = pick_device(choice.device)
    host, lora = load_models(choice, device)
    successes: list[bool] = []
    bars = Bars(len(jobs), quiet=quiet)
    try:
        with _terminable(), attached(host, lora, settings) as host:
            upscale = partial(upscale_file, host=host, lora=lora, settings=settings, device=device, overwrite=overwrite)
            for job in jobs:
                successes.append(_run(job, upscale, bars, quiet=quiet))  # noqa: PERF401 - a stop keeps those so far
    except (KeyboardInterrupt, _TerminatedError) as stop:
        print(
            f"dfosd: stopped; {sum(successes)} of {len(jobs)} images are done, {len(jobs) - len(successes)} left, "
            "no half file.",
            file=sys.stderr,
        )
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    finally:
        bars.close()
    return OK if all(successes) else FAILED


def _run(job: Job, upscale: Callable[..., tuple[int, int]], bars: Bars, *, quiet: bool) -> bool:
    """Whether the image could be upscaled. A mistake of our own is not hidden."""
    started = time.perf_counter()
    try:
        with bars.image(job.source.name) as tiles:
            height, width = upscale(job.source, job.target, tiles)
    except (DfosdError, RuntimeError, MemoryError) as error:
        if not isinstance(error, DfosdError) and not is_out_of_memory(error):
            raise
        print(f"dfosd: {explain(error, job.source, job.target)}", file=sys.stderr)
        return False
    if not quiet:
        bars.say(f"{job.source} -> {job.target} ({width}x{height}, {time.perf_counter() - started:.1f} s)")
    return True


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
