"""A small job on disk, and two ways to run the program: in this process, and as one of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_job
import torch
import yaml
from typer.testing import CliRunner

from distilbatch.cli import app

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from distilbatch.cli import main; main()"]


@pytest.fixture(autouse=True)
def plain_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and neither log handlers nor settings of the terminal that outlive a test."""
    for name in ("COLUMNS", "CI", "NO_COLOR", "FORCE_COLOR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    handlers, threads = logging.getLogger().handlers[:], torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.getLogger().handlers[:] = handlers


@dataclass(frozen=True)
class Place:
    """A source, a model, a config file and a sink below one folder.

    Args:
        folder: The working folder of the tests.
    """

    folder: Path

    @property
    def sink(self) -> Path:
        return self.folder / "out"

    @property
    def config(self) -> Path:
        return self.folder / "job.yaml"

    def write_config(self, **sections: dict[str, Any]) -> Path:
        self.config.write_text(yaml.safe_dump(tiny_job.job_config(self.folder, **sections)))
        return self.config


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier; read only."""
    return tiny_job.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The working folder, with ``job.yaml``: 50 rows in three shards, every tenth text null."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    tiny_job.write_source(tmp_path / "source" / "a.parquet", 50)
    place = Place(tmp_path)
    place.write_config()
    return place


@dataclass(frozen=True)
class Ran:
    """How a run of the program ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def call() -> Callable[..., Ran]:
    """Run the program in this process."""

    def call(*arguments: object, stdin: bytes = b"") -> Ran:
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, words, input=stdin, prog_name="distilbatch")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start the program in a process of its own, in the working folder."""

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([*PROGRAM, *map(str, arguments)], text=True, env=environ, **options)

    return start
