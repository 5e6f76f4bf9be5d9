"""Whatever a file is called, what is said about it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfosd_core.errors import DfosdError, LoraFormatError, few, one_line
from dfosd_core.lora.open import open_lora

ESCAPE, REVERSED = "\x1b[31m", "\u202e"


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "a\u2028b", f"a{ESCAPE}b", f"a{REVERSED}b", "a\udcffb"])
def test_message_is_one_printable_line(name: str) -> None:
    assert "\\" in str(DfosdError(f"'{name}' is damaged."))
    assert str(DfosdError(f"'{name}' is damaged.")).isprintable()
    assert one_line(name).isprintable()


@pytest.mark.parametrize("name", ["two  blanks", "\u6771\u4eac\u3000\u99c5", "caf\u00e9\u00a0x"])
def test_name_stays_as_it_is(name: str) -> None:
    assert str(DfosdError(f"'{name}'")) == f"'{name}'"


def test_file_with_a_line_break_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines.safetensors"
    try:
        path.write_bytes(b"none")
    except OSError as error:
        pytest.skip(f"this system has no such names ({error})")
    with pytest.raises(LoraFormatError, match=r"^'two\\nlines\.safetensors' "):
        open_lora(path)


@pytest.mark.parametrize(("count", "words"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more")])
def test_of_many_words_the_first_are_named_and_the_rest_counted(count: int, words: str) -> None:
    assert few([str(i) for i in range(count)], 3) == words
    assert len(few(["name"] * 100_000)) < 300
