"""For the tests of the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.training_runs import OPEN_LOGBOOKS, write_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base, photographs and pairs; no test changes them."""
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(autouse=True)
def _no_logbook_outlives_its_folder(tmp_path: Path) -> Iterator[None]:
    yield
    while OPEN_LOGBOOKS:
        OPEN_LOGBOOKS.pop().close()
