"""The credits name every photograph that was used, once, and refuse what may not be passed on."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from PIL import Image

from dfosd_core.errors import ConfigError
from train_tools.credits import credits_page, main, read_table, used_rows

HEADER = "file\tlicence\tauthor\torigin\tsha256\n"


def photo(folder: Path, name: str, color: str) -> str:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), color).save(folder / name)
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_every_photograph_used_is_credited_once(tmp_path: Path) -> None:
    red, blue = photo(tmp_path / "a", "red.png", "red"), photo(tmp_path / "a", "blue.png", "blue")
    photo(tmp_path / "b", "red again.png", "red")
    table = tmp_path / "t.tsv"
    table.write_text(
        f"{HEADER}red.png\tCC0-1.0\tA | B\tsomewhere\t{red}\nblue.png\tCC-BY-4.0\t\tthere\t{blue}\n"
        "unused.png\tGPL-2+\tC\tthere\t00\n"
    )
    page = credits_page(used_rows([tmp_path / "a", tmp_path / "b"], [table]))
    assert "these 2 photographs" in page
    assert "unused" not in page
    assert page.count("| red.png | A / B | somewhere |") == 1
    assert "## CC-BY-4.0 (1)" in page
    assert "| blue.png | not stated | there |" in page


@pytest.mark.parametrize("licence", ["GPL-2+", "LGPL-3 or CC BY-SA 4.0", "CC-BY-NC-4.0", "CC BY-ND 2.0", " "])
def test_a_licence_that_does_not_let_weights_be_passed_on_is_refused(licence: str) -> None:
    row = {"file": "x.png", "licence": licence, "author": "A", "origin": "o", "sha256": "0"}
    with pytest.raises(ConfigError, match=r"'x\.png' is under"):
        credits_page([row])


def test_a_photograph_in_no_table_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "a", "red.png", "red")
    table = tmp_path / "t.tsv"
    table.write_text(f"{HEADER}blue.png\tCC0-1.0\tA\to\t00\n")
    with pytest.raises(ConfigError, match=r"red\.png' is in none of the tables"):
        used_rows([tmp_path / "a"], [table])


@pytest.mark.parametrize("text", ["", "file\tlicence\n", f"{HEADER}a\tb\n", "file,licence\na,b\n"])
def test_a_table_with_other_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(ConfigError, match="expected the columns file, licence"):
        read_table(tmp_path / "t.tsv")


def test_the_command_writes_the_page_or_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    red = photo(tmp_path / "a", "red.png", "red")
    (tmp_path / "t.tsv").write_text(f"{HEADER}red.png\tCC0-1.0\tA\to\t{red}\n")
    (tmp_path / "old.tsv").write_text(
        f"{HEADER}old.png\tpublic domain\tNASA\to\t\nolder.png\tCC0-1.0\tB\to\t\nred.png\tCC0-1.0\tA\to\t{red}\n"
    )
    words = ["credits", str(tmp_path / "a"), "--tables", str(tmp_path / "t.tsv"), "-o", str(tmp_path / "c.md")]
    monkeypatch.setattr(sys, "argv", [*words, "--also", str(tmp_path / "old.tsv")])
    assert main() == 0
    page = (tmp_path / "c.md").read_text()
    assert "old.png" in page
    assert "older.png" in page
    assert page.count("red.png") == 1
    monkeypatch.setattr(sys, "argv", [*words, "--also", str(tmp_path / "missing.tsv")])
    assert main() == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_cannot_be_printed_is_left_out_of_a_name() -> None:
    row = {"file": "a.jpg", "licence": "CC0-1.0", "author": "Ann\x00", "origin": "home | away\n", "sha256": ""}
    assert "| a.jpg | Ann | home / away |" in credits_page([row])


def test_names_are_spelled_as_their_owners_do() -> None:
    row = {"file": "a.jpg", "licence": "CC0-1.0", "author": "D\xe2\x80\x99Silva", "origin": "Häggström", "sha256": ""}
    assert "| a.jpg | D\u2019Silva | Häggström |" in credits_page([row])
