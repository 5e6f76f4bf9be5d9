"""A short run of `tests/fuzz.py` over every kind: the long one is by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fuzz import loop
from support.fuzz.kinds import KINDS
from support.fuzz.loop import Kind, fuzz, wrong_line

from dfosd_core.errors import ConfigError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="its clock and its measure of memory are POSIX's")


@pytest.mark.parametrize("name", list(KINDS))
def test_damaged_input_gives_the_right_result_or_one_line(name: str, tmp_path: Path) -> None:
    tally = fuzz(KINDS[name], tmp_path, seconds=2.0, most=150, seed=1)
    assert tally.faults == []
    assert tally.tried >= 3
    assert tally.refused > 0


def use(what: str) -> Kind:
    def draw(_: object, folder: Path) -> Path:
        (folder / "a").write_text("")
        return folder / "a"

    def act(given: Path, out: Path) -> None:
        match what:
            case "changed input":
                given.write_text("else")
            case "crash":
                raise KeyError("x")
            case "half a file":
                (out / ".a.1.part").write_text("half")
            case "hang":
                while True:
                    pass
            case "refused":
                raise ConfigError("Expected something else.")
            case _:
                pass

    return Kind(what, draw, act)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("crash", "KeyError"),
        ("half a file", "left .a.1.part"),
        ("changed input", "the input is not as it was"),
        ("hang", "not done in"),
        ("refused", ""),
        ("fine", ""),
    ],
)
def test_fuzzer_sees_what_goes_wrong(what: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HANG_S", 0.2)
    tally = fuzz(use(what), tmp_path, seconds=5, most=1, seed=0)
    assert (tally.tried, tally.refused, len(tally.faults)) == (1, what == "refused", bool(words))
    assert all(words in fault for fault in tally.faults)


def test_lines_that_nobody_should_read_are_seen() -> None:
    assert wrong_line("Expected something else.") == ""
    for text in ("", "two\nlines of text", "\x1b[31m red", "x" * 2000):
        assert wrong_line(text)
