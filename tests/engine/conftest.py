"""What tests of the engine start from: a tiny checkpoint, and two files that are run over without a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_samples import write_checkpoint
from fakes import Workspace


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three colours; read only."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "colours")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Files of 7 and 5 rows: shards of 3, 4, 2 and 3."""
    workspace = Workspace(tmp_path)
    workspace.write_file("a.parquet", 7)
    workspace.write_file("sub/b.parquet", 5, start=7)
    return workspace
