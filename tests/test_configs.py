"""Every config that ships: it loads, opens with the command that runs it, and its pipeline fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilbatch.config import load_config
from distilbatch.pipeline import load_pipeline

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for folder in ("configs", "jobs") for path in (ROOT / folder).rglob("*.y*ml"))


def test_no_config_is_overlooked():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_shipped_config_loads_and_its_annotations_resolve(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(path, environ={})
    pipeline = load_pipeline(Path(config.pipeline)) if config.pipeline else None
    assert all(item.checkpoint for item in config.annotations(pipeline))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_shipped_config_opens_with_the_command_that_runs_it_and_what_that_needs(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith(f"# distilbatch run {path.relative_to(ROOT).as_posix()}")
    needed = [line.removeprefix("# Needs a model first:  ").split() for line in lines[1:5] if "Needs a model" in line]
    assert len(needed) == 1
    program, script, *_, folder = needed[0]
    if program == "python":
        assert (ROOT / script).is_file()
    else:
        assert needed[0] == ["distilbatch", "demo", "--out", "out/demo"]
    config = load_config(path, environ={})
    pipeline = load_pipeline(Path(config.pipeline)) if config.pipeline else None
    assert all(item.checkpoint.startswith(folder) for item in config.annotations(pipeline))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_override_that_a_config_shows_works(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = path.read_text("utf-8").splitlines()
    example = next(line for line in lines if line.startswith("# Another setting once: distilbatch run "))
    overrides = [item.strip() for item in example.split(" -s ")[1:]]
    assert overrides
    assert load_config(path, overrides=overrides, environ={}) != load_config(path, environ={})


def test_jobs_have_names_of_their_own():
    names = [load_config(path, environ={}).job.name for path in CONFIGS]
    assert len(set(names)) == len(names)
