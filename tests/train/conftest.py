"""For the tests of the training loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training_runs import write_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base, photographs and pairs; no test changes them."""
    return write_material(tmp_path_factory.mktemp("material"))
