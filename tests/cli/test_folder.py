"""A folder over several processes: the same files, lines and exit code as in one; what stops and what dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfosd_core.cli import processes, work
from dfosd_core.cli.launched import Launch, find_launch, with_device
from dfosd_core.cli.main import main
from dfosd_core.image_files.read import read_image
from dfosd_core.settings import ModelChoice

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
IMAGES = 6


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everywhere, since in bfloat16 another number of threads may round differently."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different sizes, and in their middle a file that is none."""
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for index in range(IMAGES):
        size = (4 + 2 * index, 6, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{index}.png")
    (folder / "2b.png").write_text("no image")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_seconds(text: str, out: Path) -> str:
    return re.sub(r", \d+\.\d s\)", ")", text).replace(str(out), "OUT")


def in_processes(*arguments: str | Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "dfosd_core.cli", "upscale", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, and so perhaps these tests, with SIGINT ignored; children inherit that.
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) if os.name == "posix" else None,
    )


@pytest.fixture
def expected(run: Run, folder: Path, tmp_path: Path) -> tuple[dict[str, bytes], str, str]:
    """Files, output and errors of one process."""
    out = tmp_path / "one"
    code, said, err = run(folder, "-o", out)
    assert code == 1
    assert [line.split("/")[-1].split(" ")[0] for line in said.splitlines()] == [f"{n}_x4.png" for n in range(IMAGES)]
    assert err == f"dfosd: '{folder / '2b.png'}' is damaged or not a PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP image.\n"
    return contents(out), without_seconds(said, out), err


def test_two_processes_give_the_same_files_lines_and_code(
    expected: tuple[dict[str, bytes], str, str], folder: Path, model: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "two"
    process = in_processes(folder, "-o", out, *model[:-2], "--devices", "cpu,cpu")
    said, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert (contents(out), without_seconds(said, out), err) == expected


def test_shares_of_a_launcher_together_are_the_whole(
    expected: tuple[dict[str, bytes], str, str], run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second starts when the first is done, with its results beside the inputs: the shares stay the same."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    said: list[str] = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        code, out, _ = run(folder)
        assert code == rank  # the bad file is the fourth of seven
        said += out.splitlines()
    results = {name: content for name, content in contents(folder).items() if "_x4" in name}
    assert results == expected[0]
    assert len(said) == IMAGES


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_accelerate_launch_shares_a_folder_and_one_failure_does_not_end_the_others(
    expected: tuple[dict[str, bytes], str, str], folder: Path, model: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "two"
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2")
    ports = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    process = in_processes(folder, "-o", out, *model[:-2], launcher=(*launcher, *ports))
    said, err = process.communicate(timeout=280)
    assert contents(out) == expected[0], err
    assert process.returncode == 1
    assert sorted(without_seconds(said, out).splitlines()) == sorted(expected[1].splitlines())
    assert err.count("is damaged or not a PNG") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_folder_has_no_half_file_and_the_same_command_goes_on(
    run: Run, model: list[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(600):  # more than are done while this process waits for its turn
        Image.new("RGB", (8, 8), (index % 256, 0, 0)).save(tmp_path / "in" / f"{index:03}.png")
    process = in_processes(tmp_path / "in", "-o", tmp_path / "out", *model[:-2], "--devices", "cpu,cpu")
    assert process.stdout is not None
    assert process.stderr is not None
    assert "000_x4.png" in process.stdout.readline()
    process.send_signal(number)
    # Not by communicate(): it would leave out what readline() has taken from the pipe beyond its line.
    said, err = process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=280) == code
    written = contents(tmp_path / "out")
    left = 600 - len(written)
    assert err == (
        f"dfosd: stopped; {len(written)} of 600 images are done, {left} left, no half file. "
        "The same command goes on with the rest.\n"
    )
    assert said.count("\n") == len(written) - 1
    for name in written:
        assert read_image(tmp_path / "out" / name).size == (32, 32)
    for path in sorted((tmp_path / "in").iterdir())[:-3]:  # all would take too long
        if f"{path.stem}_x4.png" not in written:
            path.unlink()
    rest = len(list((tmp_path / "in").iterdir())) - len(written)
    done, said, err = run(tmp_path / "in", "-o", tmp_path / "out")
    assert (done, said.count("\n")) == (0, rest)
    assert err == (
        f"dfosd: {len(written)} of {len(written) + rest} results exist and were not touched. "
        "Use --overwrite to replace them.\n"
    )
    assert written.items() <= contents(tmp_path / "out").items()


def test_process_that_dies_is_reported_with_its_images(
    folder: Path,
    model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "2b.png").unlink()
    give = processes._Worker.give

    def and_die(self: processes._Worker, job: processes.Job | None) -> None:
        if job is not None and job.source.name == "1.png":
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join()
        give(self, job)

    monkeypatch.setattr(processes._Worker, "give", and_die)
    command = ["upscale", str(folder), "-o", str(tmp_path / "out"), *model[:-2], "--devices", "cpu,cpu"]
    code = main(command)
    said, err = capsys.readouterr()
    assert code == 1
    lost = [line for line in err.splitlines() if "is not done" in line]
    assert f"'{folder / '1.png'}' is not done. The process on cpu ended unexpectedly (signal 9" in err
    assert lost == err.splitlines()
    assert len(contents(tmp_path / "out")) == said.count("\n") == IMAGES - len(lost)


def test_model_that_is_not_there_is_said_once(folder: Path, tmp_path: Path) -> None:
    process = in_processes(
        folder, "-o", tmp_path / "out", "--base", "none", "--lora", "none.safetensors", "--devices", "cpu,cpu"
    )
    said, err = process.communicate(timeout=280)
    assert (process.returncode, said, err.count("\n")) == (1, "", 1)
    assert "none.safetensors" in err


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--devices", "cpu,"], {}, "--devices cpu,: expected names like 0,1 or cpu,cpu with commas between."),
        (["--devices", "cpu,cpu", "--device", "cpu"], {}, "give either --device or --devices, not both."),
        (
            ["--devices", "cpu,cpu"],
            {"RANK": "0", "WORLD_SIZE": "2"},
            "--devices starts processes, but a launcher has started this one. Leave --devices out.",
        ),
        ([], {"RANK": "2", "WORLD_SIZE": "2"}, "RANK in the environment is 2; expected 0 to 1, below WORLD_SIZE."),
        ([], {"RANK": "x"}, "RANK and WORLD_SIZE in the environment should be whole numbers: "),
    ],
)
def test_devices_that_make_no_sense_end_with_two(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["upscale", str(photo), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_launched_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = find_launch({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert launch == Launch(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert find_launch({"RANK": "0", "WORLD_SIZE": "1"}) is find_launch({}) is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launch is not None
    assert with_device(ModelChoice(), launch).device == "cuda:1"
    assert with_device(ModelChoice(device="cpu"), launch).device == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert with_device(ModelChoice(), launch).device is None


def test_cores_are_shared_unless_the_user_has_shared_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "3")
    work._share_cores(torch.device("cpu"), 2)
    monkeypatch.delitem(os.environ, "OMP_NUM_THREADS")
    work._share_cores(torch.device("cuda"), 2)
    work._share_cores(torch.device("cpu"), 1)
    assert given == []
    work._share_cores(torch.device("cpu"), 3)
    work._share_cores(torch.device("cpu"), 16)
    assert given == [2, 1]
