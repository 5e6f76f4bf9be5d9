"""Images read ahead and written behind: their order, what fails, and what a stop leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dfosd_core.cli.conveyor import Outcome, Steps, convey
from dfosd_core.cli.plan import Job
from dfosd_core.errors import ImageFileError

JOBS = [Job(source=Path(f"{n}.png"), target=Path(f"{n}_x4.png")) for n in range(5)]
Does = Callable[[Job], object]


class Larger:
    """Stands for a picture."""

    size = (4, 8)


def nothing(_: Job) -> None:
    pass


def run(outcomes: list[Outcome], read: Does = nothing, compute: Does = nothing, write: Does = nothing) -> None:
    def larger(job: Job, _: object) -> Any:
        compute(job)
        return Larger()

    does: Any = {"read": read, "compute": larger, "write": lambda job, _: write(job)}
    convey(iter(JOBS), Steps(**does), outcomes.append)


def fail_at(*numbers: int, error: BaseException | None = None) -> Does:
    def step(job: Job) -> None:
        if int(job.source.stem) in numbers:
            raise error or ImageFileError(f"'{job.source}' is bad.")

    return step


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_images_that_fail_keep_their_place_and_the_rest_goes_on(step: str) -> None:
    outcomes: list[Outcome] = []
    run(outcomes, **{step: fail_at(0, 3)})
    assert [outcome.job for outcome in outcomes] == JOBS
    bad = {number: f"'{number}.png' is bad." for number in (0, 3)}
    assert [outcome.problem for outcome in outcomes] == [bad.get(number) for number in range(5)]
    assert outcomes[1].size == (4, 8)


def test_what_failed_is_not_computed_or_written() -> None:
    seen: list[str] = []
    run([], read=fail_at(1), compute=fail_at(2), write=lambda job: seen.append(job.source.stem))
    assert seen == ["0", "3", "4"]


def test_memory_that_runs_out_is_that_images_problem() -> None:
    outcomes: list[Outcome] = []
    run(outcomes, compute=fail_at(2, error=MemoryError()))
    assert [outcome.problem is None for outcome in outcomes] == [True, True, False, True, True]
    assert str(outcomes[2].problem).startswith("'2.png': Out of memory.")


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_our_own_mistake_is_not_hidden(step: str) -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run([], **{step: fail_at(2, error=RuntimeError("shapes do not match"))})


def test_next_is_read_and_last_is_written_while_one_is_computed() -> None:
    read, computing, written = (threading.Event() for _ in range(3))
    held: list[bool] = []

    def on_read(job: Job) -> None:
        if job == JOBS[3]:
            held.append(computing.wait(20))
            read.set()

    def on_compute(job: Job) -> None:
        if job == JOBS[2]:
            computing.set()
            held.extend((read.wait(20), written.wait(20)))

    def on_write(job: Job) -> None:
        if job == JOBS[1]:
            held.append(computing.wait(20))
            written.set()

    run([], on_read, on_compute, on_write)
    assert held == [True] * 4


def test_never_more_than_three_images_are_held() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def begin(_: Job) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)

    def end(_: Job) -> None:
        nonlocal now
        with lock:
            now -= 1

    run([], read=begin, write=end)
    assert most <= 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_stop_ends_after_what_is_being_written(error: BaseException) -> None:
    outcomes: list[Outcome] = []
    stopped = threading.Event()

    def on_compute(job: Job) -> None:
        if job == JOBS[3]:
            stopped.set()
            raise error

    def on_write(job: Job) -> None:
        if job == JOBS[2]:
            assert stopped.wait(20)

    with pytest.raises(type(error)):
        run(outcomes, compute=on_compute, write=on_write)
    assert [outcome.job for outcome in outcomes] == JOBS[:3]
    assert not any(outcome.problem for outcome in outcomes)


@pytest.mark.parametrize("before", [True, False])
def test_signal_while_an_image_is_handed_to_the_writer_loses_no_result(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    outcomes: list[Outcome] = []
    written: list[str] = []
    submit = ThreadPoolExecutor.submit

    def interrupted(pool: ThreadPoolExecutor, step: Any, *args: Any) -> Any:
        is_third_write = step.__name__ == "write" and len(outcomes) == 2
        future = None if is_third_write and before else submit(pool, step, *args)
        if is_third_write:
            raise KeyboardInterrupt
        return future

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(outcomes, write=lambda job: written.append(job.source.stem))
    assert [outcome.job.source.stem for outcome in outcomes] == written == ["0", "1", "2"][: 2 if before else 3]
