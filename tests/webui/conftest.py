"""Real hosts: FORGE_PATH, REFORGE_PATH and A1111_PATH name an installed one each, with `venv/` and SD 2.1 in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from webui_process import FLAGS, WebUI


@pytest.fixture(scope="module", params=list(FLAGS))
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A host that runs, once for all tests of a module."""
    variable: str = request.param
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} does not name an installed WebUI.")
    with WebUI(variable, Path(path), tmp_path_factory.mktemp("webui") / "host.log") as host:
        yield host
