"""kill -9 a training at random moments, go on from what it left, and compare the end with an undisturbed run.

    python tests/support/kill_runs.py FOLDER KILLS [SEED]

Prints a JSON line. A process of its own, because it forks: the children need not import torch again, and fork is safe
only before torch has started threads.
"""

from __future__ import annotations

import ctypes
import io
import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from support.training_runs import config, differences, rows, saved, write_material  # noqa: E402

from dfosd_core.lora.file import load_lora  # noqa: E402
from train_tools import train  # noqa: E402
from train_tools.loop import checkpoint, recipe, trainer  # noqa: E402
from train_tools.settings.config import TrainConfig  # noqa: E402

INTERVAL = 4
STEPS = 32
SLOW_S = 0.05
"""How long a save sleeps half-way and again before its rename."""


class Shared(ctypes.Structure):
    """What a child reports while it lives."""

    _fields_ = (("step", ctypes.c_long), ("saving", ctypes.c_long))


def settings(material: Path, out: Path) -> TrainConfig:
    return config(
        material,
        out,
        data={"batch_size": 2, "micro_batch": 2},
        optim={"steps": STEPS, "ema": 0.9},
        validation={"pairs": material / "pairs", "every": 3 * INTERVAL},
        run={"checkpoint_every": INTERVAL, "log_every": 3},
    )


def slow_saves(shared: Shared) -> None:
    """Make a save take long, in the middle of its bytes and between bytes and rename, and tell of it."""
    torch_save, fsync, write = torch.save, os.fsync, checkpoint.write_checkpoint

    def save(state: Any, file: io.BufferedWriter) -> None:
        content = io.BytesIO()
        torch_save(state, content)
        half = len(content.getbuffer()) // 2
        file.write(content.getbuffer()[:half])
        file.flush()
        time.sleep(SLOW_S)
        file.write(content.getbuffer()[half:])

    def slow_fsync(descriptor: int) -> None:
        time.sleep(SLOW_S)
        fsync(descriptor)

    def reported_write(*args: Any) -> Path:
        shared.saving = 1
        path = write(*args)
        shared.saving = 0
        return path

    torch.save, os.fsync, trainer.write_checkpoint = save, slow_fsync, reported_write


def child(run_config: TrainConfig, shared: Shared) -> int:
    torch.set_num_threads(1)
    slow_saves(shared)
    train_step = recipe.Recipe.train_step

    def reported(self: recipe.Recipe, step: int, *args: Any) -> dict[str, torch.Tensor]:
        values = train_step(self, step, *args)
        shared.step = step + 1
        return values

    recipe.Recipe.train_step = reported  # type: ignore[method-assign]
    return train.run(run_config, train.make_accelerator(run_config.run))


def fork(work: Callable[[], int], log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float, until: Callable[[], bool] = lambda: True) -> int | None:
    """The exit code; None where it still runs after `seconds` and `until` has become true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end or not until():
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def check_remains(out: Path, shared: Shared, before: int) -> int:
    """What a kill left must be whole; return its step."""
    state = checkpoint.read_checkpoint(out)
    step = 0 if state is None else state["step"]
    assert before <= step, f"step {step} after {before}"
    assert shared.step - step <= INTERVAL, f"killed in step {shared.step}, the checkpoint has {step}"
    for name in ("last.safetensors", "best.safetensors"):
        if (out / name).exists():
            trained = load_lora(out / name).metadata.train_config["trained_steps"]
            assert trained <= step, f"{name} of step {trained}, the checkpoint has {step}"
    return step


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    material = write_material(folder / "material")
    shared = Shared.from_buffer(mmap.mmap(-1, ctypes.sizeof(Shared)))
    straight = settings(material, folder / "straight" / "out")
    began = time.monotonic()
    code = wait(fork(lambda: child(straight, shared), folder / "straight.log"), 600)
    whole_s = time.monotonic() - began
    assert code == 0, (folder / "straight.log").read_text()
    rng, done, saving, halves, rounds, lost = random.Random(seed), 0, 0, 0, 0, list[int]()
    while done < kills:
        rounds += 1
        killed = settings(material, folder / f"killed{rounds}" / "out")
        log, step = folder / f"killed{rounds}.log", 0
        while True:
            shared.step, shared.saving = step, 0
            pid = fork(lambda run_config=killed: child(run_config, shared), log)
            # Every second kill waits for a save: on a busy machine chance alone may never meet one.
            aimed = done < kills and done % 2 == 1
            seconds = rng.uniform(0.05, 0.6) * whole_s if done < kills else 600
            code = wait(pid, seconds, lambda aimed=aimed: not aimed or bool(shared.saving))
            if code is not None:
                assert code == 0, log.read_text()
                break
            if aimed:
                time.sleep(rng.uniform(0, 2 * SLOW_S))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done += 1
            saving += shared.saving
            halves += any(killed.run.out.glob(".checkpoint.pt.*.part"))
            reached, step = shared.step, check_remains(killed.run.out, shared, step)
            lost.append(reached - step)
        compare(straight.run.out, killed.run.out)
    return {
        "kills": done,
        "while saving": saving,
        "left a half-written file": halves,
        "runs": rounds,
        "most steps lost": max(lost),
        "interval": INTERVAL,
    }


def compare(straight: Path, killed: Path) -> None:
    assert differences(saved(straight), saved(killed)) == []
    assert rows(straight) == rows(killed)
    for name in ("last.safetensors", "best.safetensors"):
        assert (straight / name).read_bytes() == (killed / name).read_bytes(), name
    assert not list(killed.glob(".*.part"))


if __name__ == "__main__":
    report = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    sys.stdout.write(json.dumps(report) + "\n")
