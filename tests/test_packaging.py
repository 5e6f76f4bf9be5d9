"""What surrounds the package: the root as hosts see it, install.py, run.py and pyproject.toml."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import install

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli")

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def load(path: Path, name: str) -> ModuleType:
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py, with its environment in an empty folder."""
    module = load(ROOT / "run.py", "dfosd_bootstrap")
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "OURS", str(tmp_path / ".venv" / "made-by-dfosd"))
    monkeypatch.setattr(module, "PYTHON", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr(install, "missing_packages", lambda extra: ["a-package"])
    return module


def test_root_does_nothing_outside_comfyui() -> None:
    module = load(ROOT / "__init__.py", "some-folder_x_name")
    assert module.NODE_CLASS_MAPPINGS == {}
    assert module.WEB_DIRECTORY == "./web"


def test_root_hands_on_our_nodes_in_comfyui(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the nodes come from is tests/comfy's business: here is no ComfyUI for them to import."""
    host_nodes, ours = ModuleType("nodes"), ModuleType("ours")
    vars(host_nodes).update(NODE_CLASS_MAPPINGS={"HostNode": object})
    vars(ours).update(NODE_CLASS_MAPPINGS={"Ours": object}, NODE_DISPLAY_NAME_MAPPINGS={"Ours": "Ours"})
    monkeypatch.setitem(sys.modules, "nodes", host_nodes)
    monkeypatch.setitem(sys.modules, "folder_paths", ModuleType("folder_paths"))
    monkeypatch.setitem(sys.modules, "/custom_nodes/dfosd-0_x_1.nodes.comfy.mappings", ours)
    module = load(ROOT / "__init__.py", "/custom_nodes/dfosd-0_x_1")
    assert list(module.NODE_CLASS_MAPPINGS) == ["Ours"]
    assert list(module.NODE_DISPLAY_NAME_MAPPINGS) == ["Ours"]


def test_nodes_do_nothing_as_a_top_level_package() -> None:
    """WebUIs put the pack's folder first on their path, and some extension may import `nodes`."""
    module = load(ROOT / "nodes" / "__init__.py", "nodes")
    assert [name for name in vars(module) if not name.startswith("__")] == []


def test_lists_are_read_as_toml_reads_them() -> None:
    assert install.declared("project", "dependencies") == PROJECT["dependencies"]
    for extra, requirements in EXTRAS.items():
        assert install.declared("project.optional-dependencies", extra) == requirements


def test_extras_include_others() -> None:
    assert install.extras_in("") == []
    assert install.extras_in("app") == ["app"]
    assert install.extras_in("train") == ["train", "app"]
    assert sorted(install.extras_in("dev")) == sorted(EXTRAS)


def test_packages_are_missing_by_the_name_they_are_installed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert install.missing_packages("app") == [
        *["torch", "numpy", "Pillow", "safetensors", "einops"],
        *["gradio", "opencv-python-headless", "tqdm"],
    ]
    assert {"jsonargparse", "diffusers", "tqdm"} <= set(install.missing_packages("train"))


def test_install_is_silent_and_fast_when_nothing_is_missing() -> None:
    started = time.perf_counter()
    assert install.missing_packages() == []
    assert time.perf_counter() - started < 0.05
    done = subprocess.run([sys.executable, str(ROOT / "install.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_install_names_what_is_missing() -> None:
    # -E, -S: nothing but the standard library
    done = subprocess.run([sys.executable, "-ES", str(ROOT / "install.py")], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == (
        f"DFOSD: torch, numpy, Pillow, safetensors, einops missing in {sys.executable}. Install it with: "
        f"{sys.executable} -m pip install torch numpy Pillow safetensors einops\n"
    )


def test_only_uniquely_named_packages_are_installed() -> None:
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["dfosd_core*", "train_tools*"]


def test_console_script_exists() -> None:
    module, function = PROJECT["scripts"]["dfosd"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_tested_version_is_within_the_stated_bounds() -> None:
    pins = re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    requirements = [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    bounds = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)$", "\n".join(requirements), re.MULTILINE))
    own = [each for each in requirements if each.startswith("dfosd[")]
    assert len(bounds) == len(requirements) - len(own)
    assert {"torch", "diffusers", "pytest"} <= bounds.keys()

    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".") if part]

    pinned = {name.lower() for name, _ in pins}
    assert {name.lower() for name in bounds} <= pinned
    for name, version in pins:
        for bound in (value for key, value in bounds.items() if key.lower() == name.lower()):
            assert parts(version) >= parts(bound)


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no closed pipe of this kind.")
def test_bootstrap_whose_reader_has_gone_is_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), "--help"], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_bootstrap_uses_a_python_that_has_everything(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(install, "missing_packages", lambda extra: asked.append(extra) or [])
    assert bootstrap.ready_python("app") == sys.executable
    assert asked == ["app"]


def test_bootstrap_asks_for_a_newer_python(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 18))
    assert bootstrap.main(["upscale", "a.png"]) == 1
    assert "run.py: DFOSD needs Python 3.10 or newer, this is 3." in capsys.readouterr().err


def calls(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, results: dict[str, int]) -> list[list[str]]:
    """Record commands instead of running them; `results`: exit codes by the module that one runs (else 0)."""
    seen: list[list[str]] = []

    def call(command: list[str], **_: object) -> int:
        seen.append(command)
        module = command[2] if command[1] == "-m" else ""
        code = results.get(module, 0)
        python = Path(bootstrap.PYTHON)
        if module == "venv" and code == 0:
            python.parent.mkdir(parents=True)
            python.touch()
        return code

    monkeypatch.setattr(bootstrap.subprocess, "call", call)
    return seen


def test_bootstrap_installs_once(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(bootstrap, monkeypatch, {})
    assert bootstrap.ready_python("app") == bootstrap.PYTHON
    assert [command[1:3] for command in seen] == [["-m", "venv"], ["-c", "import pip"], ["-m", "pip"]]
    assert seen[-1][-2:] == ["-e", ".[app]"]
    seen.clear()
    assert bootstrap.ready_python("app") == bootstrap.PYTHON
    assert seen == []
    assert bootstrap.ready_python("dev") == bootstrap.PYTHON
    assert [command[1:3] for command in seen] == [["-c", "import pip"], ["-m", "pip"]]
    seen.clear()
    assert bootstrap.ready_python("train") == bootstrap.PYTHON  # dev includes it
    assert seen == []


def test_bootstrap_trains_with_the_train_extra(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ready(extra: str) -> str:
        asked.append(extra)
        return "python"

    monkeypatch.setattr(bootstrap, "ready_python", ready)
    monkeypatch.setattr(bootstrap, "hand_over", lambda command: asked.extend(command) or 0)
    assert bootstrap.main(["train", "--config", "a.yaml", "--set", "run.seed=1"]) == 0
    assert asked == ["train", "python", "-m", "train_tools.train", "--config", "a.yaml", "--set", "run.seed=1"]
    names = " ".join(EXTRAS["train"])
    assert all(name in names for name in ("accelerate", "jsonargparse", "tensorboard", "matplotlib"))


@pytest.mark.parametrize("state", ["begun", "installing"])
def test_bootstrap_begins_anew_after_it_was_killed(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    left_over = Path(bootstrap.VENV) / "half"
    left_over.mkdir(parents=True)
    Path(bootstrap.OURS).write_text(state)
    seen = calls(bootstrap, monkeypatch, {})
    assert bootstrap.ready_python("app") == bootstrap.PYTHON
    assert seen[0][1:3] == ["-m", "venv"]
    assert not left_over.exists()


def test_bootstrap_leaves_a_foreign_environment_alone(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = calls(bootstrap, monkeypatch, {})
    theirs = Path(bootstrap.VENV) / "theirs"
    theirs.mkdir(parents=True)
    assert bootstrap.ready_python("app") is None
    assert seen == []
    assert theirs.exists()
    assert "the folder .venv here was not made by this program" in capsys.readouterr().err


def test_bootstrap_without_venv_and_virtualenv_says_what_to_install(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls(bootstrap, monkeypatch, {"venv": 1, "virtualenv": 1})
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    assert bootstrap.ready_python("app") is None
    assert "On Debian or Ubuntu: apt install python3-venv" in capsys.readouterr().err
    assert not Path(bootstrap.VENV).exists()


def test_bootstrap_reports_a_failed_installation_and_tries_again(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls(bootstrap, monkeypatch, {"pip": 1})
    assert bootstrap.ready_python("app") is None
    assert "pip could not install the packages; its reason is above. The next start tries again." in (
        capsys.readouterr().err
    )
    seen = calls(bootstrap, monkeypatch, {})
    assert bootstrap.ready_python("app") == bootstrap.PYTHON
    assert [command[1:3] for command in seen] == [["-c", "import pip"], ["-m", "pip"]]


def test_bootstrap_runs_all_checks_and_fails_if_one_fails(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = calls(bootstrap, monkeypatch, {"pyright": 1})
    assert bootstrap.run_checks(sys.executable, []) == 1
    assert [command[2] for command in seen] == ["ruff", "ruff", "pyright", "pytest"]
    assert capsys.readouterr().err.splitlines()[-1] == "run.py: failed: pyright"
    seen.clear()
    assert bootstrap.run_checks(sys.executable, ["-k", "x"]) == 0
    assert [command[2:] for command in seen] == [["pytest", "-k", "x"]]


def test_entry_of_the_webuis_index_has_its_fields() -> None:
    entry = json.loads((ROOT / "docs" / "webui" / "index_entry.json").read_text("utf-8"))
    assert list(entry) == ["name", "url", "description", "tags"]
    # Those of the index's own extension_template.json.
    known = (
        "script localization tab dropdown ads training models prompting editing manipulations online animation extras"
    )
    assert entry["tags"]
    assert set(entry["tags"]) <= set(known.split())
    for method in ("OSEDiff", "PiSA-SR", "HYPIR", "OMGSR-S"):
        assert method in entry["description"]


def test_citation_names_the_version_and_the_paper() -> None:
    citation: Any = pytest.importorskip("yaml").safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], "Apache-2.0")
    assert "2410.04224" in citation["preferred-citation"]["url"]
    assert len(citation["preferred-citation"]["authors"]) == 8
