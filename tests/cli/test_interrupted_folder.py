"""Two hundred files of all kinds, twenty of them broken, in subfolders: stopped three times, and all done once."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfosd_core.image_files.picture import Picture
from dfosd_core.image_files.pil import has_avif
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.write import write_image

ROOT = Path(__file__).parents[2]
GOOD, BROKEN = 180, 20
KINDS = (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp", ".jpeg", ".PNG", *((".avif",) if has_avif() else ()))
BETWEEN = 35
"""So many lines are awaited before a run is stopped."""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def make_folder(folder: Path) -> dict[str, tuple[int, int]]:
    """Name of the result below the output -> its (height, width)."""
    rng, expected = np.random.default_rng(0), dict[str, tuple[int, int]]()
    for index in range(GOOD):
        suffix = KINDS[index % len(KINDS)]
        channels = int(rng.choice((1, 3) if suffix in (".jpg", ".jpeg", ".bmp") else (1, 2, 3, 4)))
        kind = np.uint16 if suffix in (".png", ".tif") and index % 3 == 0 else np.uint8
        height, width = int(rng.integers(1, 8)), int(rng.integers(1, 8))
        samples = rng.integers(0, np.iinfo(kind).max, (height, width, channels), kind, endpoint=True)
        below = ("", "deep/", "deep/er/")[index % 3]
        (folder / below).mkdir(parents=True, exist_ok=True)
        write_image(folder / below / f"{index:03}{suffix}", Picture(samples=samples))
        expected[f"{below}{index:03}_x2{suffix.lower()}"] = (2 * height, 2 * width)
    for index in range(BROKEN):
        break_one(folder / "deep" / f"bad{index:02}", index)
    (folder / "notes.txt").write_text("mine")
    return expected


def break_one(path: Path, index: int) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)).save(whole, "JPEG")
    broken = {
        ".png": [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\x0aJXL", b"8BPS\0\1"],
        ".jpg": [whole.getvalue()[:600], b"\xff\xd8\xff\xd9", whole.getvalue()[:20]],
        ".tif": [b"II*\0\x08\0\0\0", b"MM\0*\xff\xff\xff\xff"],
        ".webp": [b"RIFF\4\0\0\0WEBP", b"RIFF"],
    }
    suffix = list(broken)[index % 4]
    path.with_suffix(suffix).write_bytes(broken[suffix][index // 4 % len(broken[suffix])])
    if index == BROKEN - 1:
        path.with_suffix(suffix).unlink()
        path.with_suffix(suffix).symlink_to(path.with_suffix(suffix).name)


def start(folder: Path, out: Path, model: list[str]) -> subprocess.Popen[str]:
    words = ["-m", "dfosd_core.cli", "upscale", str(folder), "-o", str(out), "--scale", "2", "--format", "same", *model]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def written(out: Path) -> dict[str, tuple[int, int]]:
    """What a file that is made again would not keep."""
    stats = {path.relative_to(out).as_posix(): path.stat() for path in out.rglob("*") if path.is_file()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items() if not name.endswith(".part")}


def test_stopped_and_killed_folder_is_finished_once_each(model: list[str], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    expected, said, before = make_folder(folder), list[str](), dict[str, tuple[int, int]]()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = start(folder, out, model)
        assert process.stdout is not None
        assert process.stderr is not None
        said += [process.stdout.readline() for _ in range(BETWEEN)]
        process.send_signal(number)
        said += process.stdout.readlines()
        err = process.stderr.read()
        assert process.wait(timeout=120) == code, err
        done = written(out)
        assert len(done) < GOOD
        assert before.items() <= done.items(), "a finished result was made again"
        before = done
        if number != signal.SIGKILL:
            assert "The same command goes on with the rest." in err
            assert len(said) == len(done)
    process = start(folder, out, model)
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 1
    done = written(out)
    assert before.items() <= done.items(), "a finished result was made again"
    assert {name: read_image(out / name, sequences=True).size for name in done} == expected
    assert [path for path in out.rglob("*") if path.name.startswith(".")] == []

    lines = Counter(line.split(" -> ")[0] for line in [*said, *rest.splitlines()])
    assert set(lines.values()) == {1}
    assert GOOD - 2 <= len(lines) <= GOOD  # what was killed may have had no time to say its last ones
    named = re.findall(r"^dfosd: '[^']*/(bad\d\d)\.\w+' (.+)$", err, re.MULTILINE)
    assert sorted(name for name, _ in named) == [f"bad{index:02}" for index in range(BROKEN)]
    assert f"'{folder / 'notes.txt'}': left out" in err
    assert f"{len(before)} of {GOOD + BROKEN} results exist and were not touched" in err

    process = start(folder, out, model)
    rest, err = process.communicate(timeout=120)
    assert (process.returncode, rest, written(out)) == (1, "", done)
