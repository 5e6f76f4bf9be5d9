"""Tables and tooltips of settings say what the code says, on every page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import settings_tables
from benchmarks.settings_tables import ROOT, pages, with_table


def test_pages_are_as_the_command_writes_them() -> None:
    untrue = [name for name, text in pages().items() if (ROOT / name).read_text("utf-8") != text]
    assert untrue == [], "python -m benchmarks.settings_tables"


@pytest.mark.parametrize(
    ("page", "true", "wrong"),
    [
        ("README.md", "| `--strength` | 1 |", "| `--strength` | 0.8 |"),
        ("docs/settings.md", "1 to 100, default 95", "1 to 100, default 90"),
        ("docs/comfyui.md", "| scale | 4 |", "| scale | 2 |"),
        ("web/docs/DFOSDUpscale/zh.md", "| 像素强度 | -1 |", "| 像素强度 | 0 |"),
        ("locales/en/nodeDefs.json", "Smallest overlap of VAE tiles", "Least overlap of VAE tiles"),
        ("docs/training_settings.md", "| `rank` | an int | `16` |", "| `rank` | an int | `8` |"),
    ],
)
def test_a_page_that_is_not_true_is_mended(tmp_path: Path, page: str, true: str, wrong: str) -> None:
    for name in pages():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = (ROOT / page).read_text("utf-8")
    assert true in text
    (tmp_path / page).write_text(text.replace(true, wrong), "utf-8")
    assert pages(tmp_path)[page] == text


def test_check_names_pages_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings_tables, "ROOT", tmp_path)
    monkeypatch.setattr(settings_tables, "pages", lambda: {"a.md": "new", "b.md": "same"})
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("same", "utf-8")
    monkeypatch.setattr("sys.argv", ["settings_tables", "--check"])
    assert settings_tables.main() == 1
    assert (capsys.readouterr().out, (tmp_path / "a.md").read_text("utf-8")) == ("a.md\n", "same")
    monkeypatch.setattr("sys.argv", ["settings_tables"])
    assert settings_tables.main() == 0
    assert (tmp_path / "a.md").read_text("utf-8") == "new"


def test_text_around_a_table_stays() -> None:
    text = "a\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\nb\n| z |\n"
    assert with_table(text, "| x | y |", ["| 3 | 4 |"]) == "a\n\n| x | y |\n|---|---|\n| 3 | 4 |\n\nb\n| z |\n"
    with pytest.raises(ValueError, match=r"^expected a table that starts with '\| p \|'\.$"):
        with_table(text, "| p |", [])
