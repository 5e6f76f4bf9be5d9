"""`dfosd upscale --dry-run`: what would be done to each image, and how much memory it would take."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..attach import attached
from ..errors import DfosdError
from ..image_files.read import read_size
from ..memory import STAGES, Need, fitted, free_memory, gigabytes, held_memory, need_of
from ..models import load_models, pick_device
from ..upscale_file import explain
from . import FAILED, OK
from .plan import Job
from .streams import complain, say
from .work import Task


def describe_jobs(jobs: Sequence[Job], task: Task) -> int:
    """Print a line for each image. Returns an exit code. Raises DfosdError if no model can be had."""
    device = pick_device(task.choice.device)
    host, lora = load_models(task.choice, device, reusable=task.changes_lora)
    with attached(host, lora, task.settings):  # which takes its memory too
        held, free = held_memory(device), free_memory(device)
    code = OK
    for job in jobs:
        try:
            height, width = read_size(job.source)
            size = task.settings.output_size(height, width)
            need = need_of(size, host, task.settings, writing=len(jobs) > 1)
            settings = fitted(need, size, host, task.settings, free)
            if settings is not task.settings:
                need = need_of(size, host, settings)
        except DfosdError as error:
            complain(explain(error, job.source))
            code = FAILED
            continue
        about = f"about {gigabytes(held + need.bytes)}"
        say(f"{job.source}: {width}x{height} -> {size[1]}x{size[0]}; {_tiles(need)}; {about}", sys.stdout)
    say(f"free memory: {'unknown' if free is None else gigabytes(free)}", sys.stdout)
    return code


def _tiles(need: Need) -> str:
    parts: list[str] = []
    for stage in STAGES:
        grid, f = need.grids[stage], need.factor
        height, width = grid.rows[0].length * f, grid.columns[0].length * f
        whole = len(grid) == 1
        parts.append(f"{stage} " + ("whole" if whole else f"{len(grid.columns)}x{len(grid.rows)} of {width}x{height}"))
    return ", ".join(parts)
