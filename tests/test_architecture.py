"""The house stays as docs/architecture.md draws it: who may import whom, and one home for each behaviour."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "dfosd_core"
SOURCES = [
    path
    for folder in ("dfosd_core", "nodes", "scripts", "train_tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Around the core: adapters import their own host, the CLI and the training half their own libraries, and
# identity.py counts the layers of diffusers' SD 2.1.
OUTER = ("hosts", "cli", "app", "training", "identity.py")
ALLOWED = {"torch", "numpy", "safetensors", "einops"}
HOSTS = {"comfy", "comfy_extras", "folder_paths", "modules", "backend", "gradio", "ldm_patched"}
TOO_NEW = {"tomllib", "typing.Self", "typing.override", "enum.StrEnum", "datetime.UTC"}  # after Python 3.10

INNER_FILES = [path for path in SOURCES if path.is_relative_to(CORE) and path.relative_to(CORE).parts[0] not in OUTER]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def absolute_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def relative_imports(path: Path) -> set[str]:
    """Targets inside the package, dotted, as `hosts.diffusers`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = path.relative_to(CORE).parts[: -node.level]
            for alias in node.names:
                found.add(".".join([*package, *filter(None, [node.module]), alias.name]))
    return found


def test_the_core_is_found() -> None:
    names = {path.name for path in INNER_FILES}
    assert {
        "schedule.py",
        "one_step.py",
        "pipeline.py",
        "tiling.py",
        "color_fix.py",
        "images.py",
        "host.py",
    } <= names


@pytest.mark.parametrize("path", INNER_FILES, ids=name)
def test_core_imports_nothing_but_its_few_libraries(path: Path) -> None:
    packages = {module.split(".")[0] for module in absolute_imports(path)}
    assert packages <= ALLOWED | sys.stdlib_module_names


@pytest.mark.parametrize("path", INNER_FILES, ids=name)
def test_core_does_not_reach_outward(path: Path) -> None:
    outer = {Path(part).stem for part in OUTER}
    assert not {target for target in relative_imports(path) if target.split(".")[0] in outer}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(CORE)], ids=name)
def test_package_imports_itself_relatively(path: Path) -> None:
    """ComfyUI loads the pack by its path, so `dfosd_core` is no importable name there."""
    assert not {module for module in absolute_imports(path) if module.split(".")[0] == "dfosd_core"}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(CORE / "training")], ids=name)
def test_training_half_knows_no_host_program(path: Path) -> None:
    assert not {module for module in absolute_imports(path) if module.split(".")[0] in HOSTS}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_newer_than_python_310_is_imported(path: Path) -> None:
    imports = absolute_imports(path)
    assert not imports & TOO_NEW
    assert not {module for module in imports if module.split(".")[0] in TOO_NEW}


# Code by which a behaviour is recognised, and the one file or two that may hold it.
HOMES = [
    ("the noise schedule", r"alphas_cumprod|0\.00085", {"dfosd_core/schedule.py"}),
    (
        "the root of 1 - alpha_bar",
        r"\(1(\.0)? - \w*alpha\w*(\[t\])?\)( \*\* 0\.5|\.sqrt)|sqrt\(1(\.0)? - ",
        {"dfosd_core/schedule.py", "dfosd_core/one_step.py"},
    ),
    ("image ranges", r"\* 2(\.0)? - 1(\.0)?\b|(/ 2(\.0)?|\* 0\.5) \+ 0\.5", {"dfosd_core/images.py"}),
    ("image layout", r"permute\(0, (3, 1, 2|2, 3, 1)\)", {"dfosd_core/images.py"}),
    ("antialiased resizing", r"antialias=True", {"dfosd_core/images.py"}),
    ("LoRA names", r"['\"]lora_unet_?['\"]|replace\(['\"](down|up)_blocks", {"dfosd_core/lora/keys.py"}),
    ("tiling and blending", r"def (tiled_|blend_)\w+|enable_tiling", {"dfosd_core/tiling.py"}),
]


@pytest.mark.parametrize(("behaviour", "pattern", "homes"), HOMES, ids=[home[0] for home in HOMES])
def test_each_behaviour_has_one_home(behaviour: str, pattern: str, homes: set[str]) -> None:
    found = {name(path) for path in SOURCES if re.search(pattern, code_of(path))}
    assert found == homes, f"{behaviour} belongs into {', '.join(sorted(homes))}"


def code_of(path: Path) -> str:
    """The source without comments, and without strings that are statements (docstrings)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
