"""Sinks in known states: runs are made once, each test gets a copy to break."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_job

import distilbatch


@dataclass(frozen=True)
class Workplace:
    """A source, a model and a sink below one folder."""

    folder: Path

    @property
    def sink(self) -> Path:
        return self.folder / "out"

    @property
    def run(self) -> Path:
        return self.sink / "_distilbatch" / "tiny" / "once"

    def files(self) -> list[Path]:
        return sorted(self.sink.glob("data/**/*.parquet"))

    def config(self, **sections: dict[str, Any]) -> dict[str, Any]:
        return tiny_job.job_config(self.folder, **sections)


def make_workplace(folder: Path) -> Workplace:
    tiny_job.write_checkpoint(folder / "model")
    tiny_job.write_source(folder / "source" / "a.parquet", 50)
    tiny_job.write_source(folder / "source" / "b.parquet", 20, first=50)
    return Workplace(folder)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Workplace:
    place = make_workplace(tmp_path_factory.mktemp("finished"))
    distilbatch.run(place.config())
    return place


@pytest.fixture
def finished(finished_once: Workplace, tmp_path: Path) -> Workplace:
    """A finished run over a.parquet (shards 0 to 2, 50 rows) and b.parquet (shard 3, 20 rows)."""
    shutil.copytree(finished_once.folder, tmp_path / "work")
    return Workplace(tmp_path / "work")


@pytest.fixture
def fresh(tmp_path: Path) -> Workplace:
    """The same before any run."""
    return make_workplace(tmp_path / "work")
