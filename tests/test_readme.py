"""The documents: commands are commands that exist, with files that exist; links and names lead somewhere."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from dfosd_core.cli.arguments import make_parser, settings_of
from train_tools.loop.trainer import LAST_LORA
from train_tools.settings.config_file import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(?:sh|bash)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/*.md"),
        *ROOT.glob("dfosd_core/weights/*.md"),
    ]
)
OURS = [line for line in COMMANDS if line.startswith(("dfosd ", "python3 run.py upscale", "python3 run.py info"))]


@pytest.mark.parametrize("command", OURS)
def test_command_parses(command: str) -> None:
    words = shlex.split(command)
    words = words[1:] if words[0] == "dfosd" else words[2:]
    arguments = make_parser().parse_args(words)
    assert arguments.command == words[0]
    stated = {flag[2:].replace("-", "_"): value for flag, value in itertools.pairwise(words) if flag.startswith("--")}
    found = vars(settings_of(arguments)) if arguments.command == "upscale" else {}
    for name in stated.keys() & found.keys():
        assert f"{found[name]}".removesuffix(".0") == stated[name]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python3 run.py train")])
def test_training_command_has_a_configuration_and_settings_that_exist(command: str) -> None:
    words = shlex.split(command)
    assert words[3:6:2] == ["--config", "--set"]
    load_config(ROOT / words[4], words[6:])


def test_trained_lora_is_upscaled_with_from_where_training_put_it() -> None:
    trained = next(line for line in COMMANDS if "small_cpu.yaml" in line)
    out = re.search(r"run\.out=(\S+)", trained)
    assert out is not None
    assert any(f"--lora {out[1]}/{LAST_LORA}" in line for line in OURS)


def test_first_command_upscales_a_shipped_photograph() -> None:
    words = shlex.split(OURS[0])
    assert words[:3] == ["python3", "run.py", "upscale"]
    assert (ROOT / words[3]).is_file()


def test_tests_have_a_command() -> None:
    assert "python3 run.py test" in COMMANDS
    assert "python3 run.py test" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_linked_files_and_headings_exist(page: Path) -> None:
    wrong: list[str] = []
    for link in re.findall(r"\]\((?!https?:)(\S+?)\)", page.read_text("utf-8")):
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (heading and heading not in headings(target)):
            wrong.append(link)
    assert wrong == []


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_modules_that_a_page_runs_exist(page: Path) -> None:
    modules = re.findall(r"(?:python|launch\b.*?) -m ((?:train_tools|benchmarks)\.[\w.]+)", page.read_text("utf-8"))
    assert [module for module in modules if find_spec(module) is None] == []


def test_tests_that_hold_a_fault_exist() -> None:
    page = (ROOT / "docs" / "results" / "faults.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text("utf-8")
    ]
    assert missing == []


def test_architecture_names_files_that_exist() -> None:
    """In the text and in the tree; NAME stands for a new file, and what is planned is marked so."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    known = [line for line in page.splitlines() if "(planned)" not in line]
    named = {name for line in known for name in re.findall(r"`([\w./]+\.py)`", line) if "NAME" not in name}
    assert len(named) > 25
    roots = (
        ROOT,
        ROOT / "dfosd_core",
        ROOT / "dfosd_core" / "training",
        ROOT / "train_tools",
        ROOT / "train_tools" / "data",
    )
    assert sorted(name for name in named if not any((root / name).is_file() for root in roots)) == []
    rooms = re.findall(r"^│   [├└]── ([\w.]+)", page, re.MULTILINE)
    assert len(rooms) > 15
    assert [room for room in rooms if not (ROOT / "dfosd_core" / room).exists()] == []


def _literals() -> str:
    """All text in the programs' strings, f-strings without what they fill in."""
    texts: list[str] = []
    for folder in ("dfosd_core", "nodes", "train_tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [n.value if isinstance(n, ast.Constant) else "..." for n in node.values]
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_troubleshooting_quotes_messages_that_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quoted = [text for cell in re.findall(r"^\| (.*?) \|", page, re.MULTILINE) for text in re.findall(r"`(.*?)`", cell)]
    pieces = [piece.strip(" '.,;") for text in quoted for piece in text.split("...")]
    pieces = [piece for piece in pieces if len(piece) > 8 and not piece.startswith("--")]
    assert len(pieces) > 15
    literals = _literals()
    assert [piece for piece in pieces if piece not in literals] == []
