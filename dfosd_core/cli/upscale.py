"""`dfosd upscale` at work: in this process, in several, or as one of several that a launcher has started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..files import remove_abandoned
from . import FAILED, INTERRUPTED, OK, TERMINATED
from .launched import Launch, with_device
from .plan import Job
from .progress import Bars
from .reports import Reports
from .stopping import TerminatedError, terminable
from .work import Task, run_task

if TYPE_CHECKING:
    from ..tiles.run import Progress


def run_jobs(
    jobs: Sequence[Job], task: Task, devices: Sequence[str] = (), *, launch: Launch | None = None, quiet: bool = False
) -> int:
    """Upscale, write, report. Returns an exit code. Raises DfosdError if no model can be had.

    `devices`: two or more are given a process each. An image that fails is reported, and the rest goes on.
    """
    if launch is not None:
        task = replace(task, choice=with_device(task.choice, launch), sharing=launch.local_world_size)
    elif len(devices) == 1 or len(jobs) == 1:
        task = replace(task, choice=replace(task.choice, device=(*devices, task.choice.device)[0]))
    bars = Bars(len(jobs), quiet=quiet or bool(launch and launch.rank))
    reports = Reports(jobs, bars, quiet=quiet)

    def progress_of(job: Job) -> Callable[[Progress], None]:
        return lambda progress: bars.show(job.source.name, progress)

    remove_abandoned(job.target for job in jobs)
    try:
        with terminable():
            if len(devices) > 1 and len(jobs) > 1:
                from .processes import run_in_processes

                run_in_processes(task, devices[: len(jobs)], jobs, bars, reports)
            else:
                run_task(task, iter(jobs), reports.add, progress_of)
    except (KeyboardInterrupt, TerminatedError) as stop:
        reports.close()
        rest = f"{reports.left} left, no half file."
        if len(jobs) > 1 and not task.overwrite:
            rest += " The same command goes on with the rest."
        bars.say(f"dfosd: stopped; {reports.done} of {len(jobs)} images are done, {rest}", sys.stderr)
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    finally:
        reports.close()
        bars.close()
    return OK if reports.all_done else FAILED
