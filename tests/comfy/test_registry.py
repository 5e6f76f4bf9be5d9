"""What ComfyUI's registry packs and its scanners look at."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_process import ROOT
from fake_place import Place, fake_place

from dfosd_core.networks.embedded import DEFAULT_WEIGHTS

MOST_BYTES = 45 * 10**6
FLAGGED = re.compile(r"\bsubprocess\b|\bos\.(environ|system|popen)\b|\bimportlib\b|(?<![.\w])(eval|exec|__import__)\(")
"""What scanners of node packs stop at: https://docs.comfy.org/registry/standards."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fake_place(tmp_path_factory.mktemp("comfy")) as place:
        place.node("DFOSDUpscale")
        yield place


@pytest.fixture(scope="module")
def imported(place: Place) -> list[Path]:
    """The files of ours that ComfyUI imports."""
    modules = [module for name, module in sys.modules.items() if name.startswith(place.pack)]
    files = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    assert len(files) > 50
    return sorted(files)


def left_out() -> list[str]:
    lines = (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert all(pattern.startswith("/") for pattern in patterns), "each is a place, no name that may be elsewhere too"
    return patterns


def is_packed(path: str) -> bool:
    return not any(f"/{path}".startswith(pattern) for pattern in left_out())


def test_what_comfyui_imports_is_packed(imported: list[Path]) -> None:
    assert [file for file in imported if not is_packed(file.relative_to(ROOT).as_posix())] == []


def test_what_comfyui_imports_has_nothing_that_scanners_stop_at(imported: list[Path]) -> None:
    found = {file.name: match.group() for file in imported if (match := FLAGGED.search(file.read_text("utf-8")))}
    assert found == {}


def test_package_is_small_and_has_what_the_page_needs() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = [name for name in listed.splitlines() if (ROOT / name).is_file()]
    if not names:
        pytest.skip("this is no git checkout: what would be packed is not known")
    packed = [name for name in names if is_packed(name)]
    assert sum((ROOT / name).stat().st_size for name in packed) < MOST_BYTES
    for name in ("__init__.py", "pyproject.toml", "LICENSE", "README.md", "install.py", "web/js/dfosd_upscale.js"):
        assert name in packed
    assert any(name.startswith(DEFAULT_WEIGHTS.relative_to(ROOT).as_posix()) for name in packed)
