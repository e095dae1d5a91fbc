"""A tiny checkpoint for the tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_samples import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three colours; read only."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "colours")
