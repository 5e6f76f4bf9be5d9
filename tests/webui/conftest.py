"""Real hosts: FORGE_PATH, REFORGE_PATH and A1111_PATH name an installed one each, with `venv/` and SD 2.1 in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import foreign_loras
import pytest
from webui_process import FLAGS, ROOT, WebUI, installed_at


@pytest.fixture(scope="module", params=list(FLAGS))
def installed(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """An installed host: the variable that names it, its folder."""
    return request.param, installed_at(request.param)


@pytest.fixture(scope="module")
def foreign(installed: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Full-size LoRAs of other methods and a light decoder in models/DFOSD, and what our own networks make of them.

    Made before the host starts, for want of memory. FOREIGN_LORAS names a folder that keeps their 1.1 GB for other
    hosts with the same checkpoint; it may be empty at first.
    """
    root, prepared = installed[1], Path(os.environ.get("FOREIGN_LORAS") or tmp_path_factory.mktemp("foreign"))
    if not (prepared / foreign_loras.DECODER).exists():
        foreign_loras.write_all(prepared)
    if not all((prepared / f"{name}.npy").exists() for name in foreign_loras.RUNS):
        checkpoint = next((root / "models" / "Stable-diffusion").glob("*.safetensors"))
        script = Path(__file__).with_name("foreign_references.py")
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        subprocess.run([sys.executable, str(script), str(checkpoint), str(prepared)], check=True, env=env)
    folder = root / "models" / "DFOSD" / foreign_loras.FOLDER
    folder.mkdir(parents=True)
    try:
        for name in (*foreign_loras.NAMES, foreign_loras.DECODER, *(f"{name}.npy" for name in foreign_loras.RUNS)):
            (folder / name).symlink_to(prepared / name)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def webui(installed: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A host that runs, once for all tests of a module."""
    with WebUI(*installed, tmp_path_factory.mktemp("webui") / "host.log") as host:
        yield host
