"""The comparison counts multiplications as published, takes turns, and measures each program in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import compare, peers
from benchmarks.contenders import GROUPS, Contender, Group
from benchmarks.entrant import Entrant

PARAM = """7767517
4 4
Input        in    0 1 data
Convolution  first 1 1 data a 0=48 1=3 4=1 5=1 6=1296
Split        s     1 2 a a_0 a_1
{enlarge}
Convolution  last  1 1 b output 0=3 1=3 4=1 5=1 6=432
"""


def gmacs(group: str, name: str) -> float:
    row = next(row for row in GROUPS[group].rows if row.name == name)
    return row.macs(512) / 1e9


def test_multiplications_are_the_papers_and_ours_are_folded() -> None:
    assert gmacs("sd21", "diffusers, LoRA merged") == pytest.approx(2120.47, abs=0.01)
    assert gmacs("sd21", "diffusers, LoRA by peft") == pytest.approx(2132.27, abs=0.01)
    assert gmacs("sd21_float32", "ours") == pytest.approx(1906.3, abs=0.1)
    # Without its own decoder's 1,047 G, and with 310 and 71 G.
    assert gmacs("sd21", "ours, VOSR's decoder") == pytest.approx(1170, abs=1)
    assert gmacs("sd21", "ours, TAESD's decoder") == pytest.approx(930, abs=1)


def test_a_larger_output_takes_as_much_more() -> None:
    row = GROUPS["small"].rows[-1]
    assert row.name == "ours, embedded default"
    assert row.macs(1024) == pytest.approx(4 * row.macs(512))


@pytest.mark.parametrize("enlarge", ["Interp up 1 1 a_0 b 0=1 1=4.0 2=4.0", "PixelShuffle up 1 1 a_0 b 0=4"])
def test_peers_multiplications_are_read_from_their_description(
    enlarge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.param").write_text(PARAM.format(enlarge=enlarge))
    monkeypatch.setattr(peers, "_files", lambda peer: tmp_path / peer.model)
    assert peers.macs_of(peers.Peer("x", "x", "net"), 512) == 1296 * 128 * 128 + 432 * 512 * 512


class Fake:
    """Takes the seconds it is told, and answers with its own grey."""

    order: list[int]
    seconds: dict[int, list[float]]

    def __init__(self, group: str, index: int, base: Path) -> None:
        self.index, self.peak_mib = index, 100.0 * (index + 1)
        self.left = iter(Fake.seconds[index])

    def run(self, image: Tensor) -> float:
        Fake.order.append(self.index)
        return next(self.left)

    def result_of(self, image: Tensor) -> Tensor:
        return torch.full_like(image, 0.5 + 0.1 * self.index)

    def close(self) -> None: ...


def test_turns_ratios_and_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(name: str, equals: int | None) -> Contender:
        return Contender(name, "float32", lambda *_: None, lambda edge: 1e9 * edge / 512, equals)

    monkeypatch.setitem(GROUPS, "test", Group("Title", (row("first", None), row("second", 0))))
    monkeypatch.setattr(compare, "Entrant", Fake)
    # The first turn is a warm-up. A slow moment hits both: the ratio is of turns, not of medians.
    Fake.order, Fake.seconds = [], {0: [50.0, 1.0, 8.0, 2.0], 1: [90.0, 3.0, 4.0, 1.0]}
    found = compare.measure("test", 128, 3, Path(), [torch.zeros(1, 4, 4, 3)], lambda _: 1e9)
    assert Fake.order == [0, 1] * 4
    first, second = found
    assert (first.group, first.seconds, first.ratio, first.peak_mib) == ("Title", [1.0, 8.0, 2.0], 1.0, 100.0)
    assert (second.seconds, second.ratios, second.ratio, second.median) == ([3.0, 4.0, 1.0], [3.0, 0.5, 0.5], 0.5, 3.0)
    assert (first.share, second.share) == (0.5, pytest.approx(1 / 3))  # 1 GMAC in 2 and in 3 s at 1 GMAC/s
    assert first.difference is None
    assert second.difference == pytest.approx(0.1)
    assert second.psnr == pytest.approx(20.0, abs=1e-3)


def test_a_program_that_ends_leaves_its_row_out(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Ending(Fake):
        def run(self, image: Tensor) -> float:
            if self.index == 1:
                raise EOFError
            return super().run(image)

    def row(name: str) -> Contender:
        return Contender(name, "float32", lambda *_: None, lambda _: 1e9)

    monkeypatch.setitem(GROUPS, "test", Group("Title", (row("first"), row("second"), row("third"))))
    monkeypatch.setattr(compare, "Entrant", Ending)
    Fake.order, Fake.seconds = [], {0: [1.0] * 6, 1: [], 2: [2.0, 2.0]}
    found = compare.measure("test", 128, 1, Path(), [torch.zeros(1, 4, 4, 3)], lambda _: 1e9)
    assert [each.name for each in found] == ["first", "third"]
    assert "second or first ended at 128.\n" in capsys.readouterr().out


def test_table_and_plot_are_written(tmp_path: Path) -> None:
    row = compare.Row(
        "Small networks", "ours", "bfloat16", 128, 125.0, [0.3, 0.5, 0.4], [0.1, 0.12, 0.11], 536.0, 0.33, 9e-3, 60.8
    )
    assert row.cells() == "| ours | bfloat16 | 512 | 125 | 0.40 (0.30 to 0.50) | 0.11 | 536 | 33% | 9.0e-03, 60.8 dB |"
    compare.write(tmp_path / "out", "a machine", [row, row])
    assert (tmp_path / "out" / "compare.md").read_text("utf-8").splitlines()[-1] == row.cells()
    with Image.open(tmp_path / "out" / "compare.png") as plot:
        assert plot.width > 500
        assert len(np.unique(np.asarray(plot.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.slow
def test_a_program_answers_from_a_process_of_its_own() -> None:
    index = next(i for i, row in enumerate(GROUPS["small"].rows) if row.numbers == "bfloat16")
    entrant = Entrant("small", index, Path())
    try:
        image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
        assert entrant.run(image) > 0
        assert entrant.result_of(image).shape == (1, 64, 64, 3)
        assert 100 < entrant.peak_mib < 2000
    finally:
        entrant.close()
    assert entrant.process.exitcode == 0
