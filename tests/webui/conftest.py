"""Real hosts: FORGE_PATH, REFORGE_PATH and A1111_PATH name an installed one each, with `venv/` and SD 2.1 in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from webui_process import FLAGS, WebUI


@pytest.fixture(scope="module", params=list(FLAGS))
def installed(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """An installed host: the variable that names it, its folder."""
    variable: str = request.param
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} does not name an installed WebUI.")
    return variable, Path(path)


@pytest.fixture(scope="module")
def webui(installed: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A host that runs, once for all tests of a module."""
    with WebUI(*installed, tmp_path_factory.mktemp("webui") / "host.log") as host:
        yield host
