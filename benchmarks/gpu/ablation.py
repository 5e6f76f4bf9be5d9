"""What the discriminator and its prior contribute: `train_tools/ablation.py` on the card, a call of minutes at a time.

Four seeds of four rows do not fit into one check. Its runs therefore stay in `runs/gpu_ablation` of the repository, and
the check, named again, goes on where it was stopped; the last call judges. A tenth of the photographs is set aside for
the judges, forty at most. The report and its pictures are kept beside the table.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from dfosd_core.errors import DfosdError
from dfosd_core.image_files import is_image_name
from dfosd_core.lora.file import load_lora
from train_tools.ablations.runs import ROWS, START
from train_tools.loop.trainer import LAST_LORA
from train_tools.make_pairs import make_pairs

from ..train_speed import PHOTOS, ROOT
from .setting import Row, Setting

COLUMNS = ("what", "value")
CONFIG = ROOT / "train_tools" / "configs" / "ablation.yaml"
PLACE = ROOT / "runs" / "gpu_ablation"
SEEDS = (0, 1, 2, 3)
MOST_HELD = 40
CALL_S = 200
"""The ablation gets SIGINT after this, and saves."""
KEPT = ("report.md", "results.json", "plot.png", "crops.png")


def rows(setting: Setting) -> Generator[Row, None, None]:
    """What is trained after this call; with the last, that the report is there."""
    place = setting.work / "ablation" if setting.tiny else PLACE
    photos, pairs = _divide(setting, place)
    began = time.monotonic()
    code = _call(_command(setting, place / "out", photos, pairs), setting)
    done = _trained(place / "out")
    seeds, names = _size(setting)
    yield Row(("photographs, held-out pairs", f"{len(list(photos.iterdir()))}, {len(list((pairs / 'HR').iterdir()))}"))
    yield Row(
        ("runs trained", f"{len(done)} of {len(seeds) * (len(names) + 1)}, {time.monotonic() - began:.0f} s this call")
    )
    for row in (START, *names):
        steps = sorted(done[name] for name in done if Path(name).name == row)
        yield Row((row, f"{len(steps)} seeds, {steps[0]} steps each" if steps else "none yet"))
    if code:
        yield Row(("report", "not yet: `python -m benchmarks.gpu ablation` goes on"))
        return
    for name in KEPT:
        shutil.copy(place / "out" / name, setting.out / f"gpu_ablation_{name}")
    yield Row(("report", ", ".join(f"gpu_ablation_{name}" for name in KEPT)))


def _size(setting: Setting) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Seeds and rows."""
    return (SEEDS[:1], ("nad",)) if setting.tiny else (SEEDS, tuple(ROWS))


def _divide(setting: Setting, place: Path) -> tuple[Path, Path]:
    """Links to the photographs to train on, and pairs of those set aside; made once."""
    photos, pairs = place / "photos", place / "pairs"
    if not pairs.is_dir():
        found = sorted(path for path in (setting.photos or PHOTOS).rglob("*") if is_image_name(path))
        every = max(len(found) // MOST_HELD, min(10, len(found) // 2))
        held = found[::every]
        for folder, paths in ((photos, [path for path in found if path not in held]), (place / "held", held)):
            shutil.rmtree(folder, ignore_errors=True)  # of a call that ended here
            folder.mkdir(parents=True)
            for number, path in enumerate(paths):
                (folder / f"{number:05d}{path.suffix.lower()}").symlink_to(path.resolve())
        make_pairs(place / "held", pairs, size=64 if setting.tiny else 256)
    return photos, pairs


def _command(setting: Setting, out: Path, photos: Path, pairs: Path) -> list[str]:
    jobs = 1 if setting.tiny else max(1, (os.cpu_count() or 1) // 4)
    changes = [
        f"data.photos={photos}",
        f"run.device={setting.device.type}",
        f"loss.vgg={setting.vgg.resolve() if setting.vgg else 'null'}",
    ]
    if setting.tiny:
        changes += [
            "optim.steps=2",
            "optim.warmup_steps=0",
            "discriminator.from_step=1",
            "discriminator.warmup_steps=1",
        ]
        changes += ["data.crop=32", "data.batch_size=1", "data.micro_batch=1", "data.workers=0", "model.rank=4"]
    seeds, names = _size(setting)
    sizes = ["--start-steps", "1" if setting.tiny else "300", "--seeds", *map(str, seeds), "--rows", *names]
    start = ["--start-set", "optim.lr=8e-4", "optim.beta_1=0.9", "--jobs", str(jobs)]
    program = [sys.executable, "-m", "train_tools.ablation", "--config", str(CONFIG), "--out", str(out)]
    return [*program, "--pairs", f"held={pairs}", "--set", *changes, *sizes, *start]


def _call(command: Sequence[str], setting: Setting) -> int:
    """0: all is trained and judged; 1: it was stopped for time. Raises DfosdError where it failed."""
    with (setting.out / "gpu_ablation.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(CALL_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # the runs, too, as Ctrl-C would
            process.wait()
            return 1
    if code:
        raise DfosdError(f"the ablation ended with code {code}, expected 0: see gpu_ablation.log.")
    return 0


def _trained(out: Path) -> dict[str, int]:
    """Finished runs and their steps."""
    ended: dict[str, int] = {}
    for path in sorted(out.glob(f"seed*/*/{LAST_LORA}")):
        trained = load_lora(path).metadata.train_config
        if trained.get("trained_steps") == trained["optim"]["steps"]:
            ended[str(path.parent.relative_to(out))] = trained["trained_steps"]
    return ended
