"""The checks for a graphics card, each tried small on the CPU; and what they say of a card that computes wrong."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import correctness, memory, results
from benchmarks.gpu.setting import Row, Setting, relative_error
from benchmarks.memory_model import Estimate

ROWS = {
    "correctness": 3 * (3 * 3 + 2) + 1 + 3,  # formats: ways and stages, strips; overflow; formats of the image
    "step": 2 * 3,
    "memory": 1,
    "speed": 3 * 3 + 2 + 1,  # three ways of three stages, one of two, one compiled
    "training": 8,
    "ablation": 2 + 2 + 1,
}


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUT", str(tmp_path))
    return tmp_path


def setting(out: Path, device: str = "cpu") -> Setting:
    return Setting(device=torch.device(device), work=out, out=out, tiny=True)


def table(text: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return lines[2:]


def test_rows_are_stated_for_every_check() -> None:
    assert [*ROWS] == [*results.CHECKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", results.CHECKS)
def test_check_runs_small_on_a_cpu(name: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--tiny", "--minutes", "0", name]) == 0, capsys.readouterr()
    text = (out / f"tiny_{name}.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith(f"### {name}: 20")
    assert f"torch {torch.__version__}" in text.splitlines()[0]
    assert len(table(text)) == ROWS[name], text
    assert text.rstrip().endswith("rows that are not as they should be: 0.")
    if name == "training":
        assert {path.name for path in out.glob("gpu_training_*")} == {
            "gpu_training_loss.png",
            "gpu_training_validation.png",
            "gpu_training_last.safetensors",
        }
    if name == "ablation":
        assert {path.name for path in out.glob("gpu_ablation*.*")} == {
            "gpu_ablation.log",
            "gpu_ablation_report.md",
            "gpu_ablation_results.json",
            "gpu_ablation_plot.png",
            "gpu_ablation_crops.png",
        }
        assert "| runs trained | 2 of 2, " in text
    # Tried small is no result.
    assert results.pending(out, "") == [*results.CHECKS]


def test_wrong_results_are_seen(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = correctness.transposed_kernel
    monkeypatch.setattr(correctness, "transposed_kernel", lambda weight: right(weight) * 1.001)
    assert not results.run_check("correctness", setting(out))
    wrong = [row for row in table((out / "tiny_correctness.md").read_text()) if row[-1] != "yes"]
    assert [(row[0], row[1], row[2]) for row in wrong] == [
        (stage, "float32", "upsampling too") for stage in ("UNet", "decode")
    ]


def test_memory_over_the_limit_or_far_from_the_estimate_is_seen(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of an 8 GB card over its 6.5 GiB, of a 12 GB card as estimated, of a 24 GB card far below; the last has no room.
    measured = iter([6.6, 6.3, 5.0])

    def measure(_config: object, _setting: object) -> tuple[float, float, float]:
        peak = next(measured, None)
        if peak is None:
            raise torch.cuda.OutOfMemoryError
        return 1.0, peak, peak + 1

    monkeypatch.setattr(memory, "_measure", measure)
    monkeypatch.setattr(memory, "MetaNetworks", lambda *_: None)
    monkeypatch.setattr(memory, "estimate", lambda *_: Estimate(0, int(6.2 * 2**30)))
    monkeypatch.setattr(Setting, "empty", lambda _: None)
    big = Setting(device=torch.device("cuda"), work=out, out=out)
    monkeypatch.setitem(vars(big), "base", out)
    rows = [*memory.rows(big)]
    assert [row.ok for row in rows] == [False, True, False, True]
    assert rows[3].cells[3] == "does not fit on this card"


def test_time_and_errors_end_a_check_and_keep_its_rows(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(_setting: Setting) -> Generator[Row, None, None]:
        yield Row(("first",))
        raise RuntimeError("the card is\ngone")

    monkeypatch.setattr(results, "import_module", lambda *_: SimpleNamespace(COLUMNS=("what",), rows=rows))
    for limit, ending in ((60.0, "Ended by RuntimeError: the card is gone"), (0.0, "Stopped for lack of time.")):
        assert not results.run_check("speed", setting(out), limit)
        text = (out / "tiny_speed.md").read_text()
        assert table(text) == [["first", "yes"]]
        assert text.rstrip().endswith(ending)
    assert "Traceback" in capsys.readouterr().err


def test_next_is_what_has_no_result(out: Path) -> None:
    page = "## Results\n\n### correctness: 2026-11-30, a card\n\n### memory: 2026-11-30, a card\n"
    assert results.pending(out, page) == ["step", "speed", "training", "ablation"]
    (out / "gpu_step.md").touch()
    assert results.pending(out, page) == ["speed", "training", "ablation"]


def test_page_describes_each_check() -> None:
    page = results.PAGE.read_text("utf-8")
    assert [name for name in results.CHECKS if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "finds no GPU. Give --tiny to try the checks on a CPU."),
        (["speeds"], "expected checks of correctness, step, memory, speed, training, ablation, found speeds."),
        (["--vgg", "nowhere.pth"], "there is no 'nowhere.pth'."),
    ],
)
def test_what_cannot_be_run_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu: ")
    assert error.endswith(f"{message}\n")
    assert error.count("\n") == 1


def test_error_is_relative_and_nan_is_no_small_one() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert relative_error(expected * 1.01, expected) == pytest.approx(0.01, rel=1e-4)
    assert relative_error(Tensor([3.0, float("nan")]), expected) == float("inf")
