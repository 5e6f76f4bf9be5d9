"""The work of one process: networks loaded once, the LoRA merged once, and images conveyed through them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..image_files import QUALITY
from ..settings import ModelChoice, UpscaleSettings
from .conveyor import Outcome, Steps, convey
from .plan import Job

if TYPE_CHECKING:
    import torch

    from ..image_files.picture import Picture
    from ..tiles.run import ProgressCallback


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done to every image. Goes to another process as it is."""

    settings: UpscaleSettings
    choice: ModelChoice
    overwrite: bool = False
    quality: int = QUALITY
    """Of lossy formats."""
    sharing: int = 1
    """How many processes share this machine's processor cores."""

    @property
    def changes_lora(self) -> bool:
        """Whether the base is used with more than one LoRA: PiSA-SR's rule puts on another for each UNet call."""
        return self.settings.pixel_strength is not None


def run_task(
    task: Task,
    jobs: Iterator[Job],
    report: Callable[[Outcome], None],
    progress_of: Callable[[Job], ProgressCallback],
) -> None:
    """Do all `jobs`; both callbacks are called in this thread. Raises DfosdError if no model can be had."""
    from ..allocator import keep_freed_memory
    from ..attach import attached
    from ..freed_memory import give_back_freed_memory
    from ..memory import fitted, free_memory, need_of
    from ..models import load_models, pick_device
    from ..upscale_file import read_source, upscale_picture, write_result

    settings = task.settings
    device = pick_device(task.choice.device)
    _share_cores(device, task.sharing)
    keep_freed_memory()
    host, lora = load_models(task.choice, device, reusable=task.changes_lora)
    with attached(host, lora, settings) as with_lora:
        give_back_freed_memory()  # what loading and merging took for a moment
        upscale = partial(upscale_picture, host=with_lora, lora=lora, device=device)

        def compute(job: Job, picture: Picture) -> Picture:
            size = settings.output_size(*picture.size)
            need = need_of(size, host, settings, channels=3 + picture.has_alpha)
            free = free_memory(device, task.sharing)
            if free is not None and need.bytes > free:
                give_back_freed_memory()
                free = free_memory(device, task.sharing)
            return upscale(picture, progress_of(job), settings=fitted(need, size, host, settings, free))

        steps = Steps(
            read=lambda job: read_source(job.source, job.target, settings),
            compute=compute,
            write=lambda job, larger: write_result(job.target, larger, overwrite=task.overwrite, quality=task.quality),
        )
        convey(jobs, steps, report)


def _share_cores(device: torch.device, sharing: int) -> None:
    """Threads of several processes on the same cores would wait for each other."""
    import torch

    if device.type == "cpu" and sharing > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(torch.get_num_threads() // sharing, 1))
