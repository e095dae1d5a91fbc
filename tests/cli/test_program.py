"""The program as a whole: it starts quickly, knows its verbs and says its version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import distilbatch.cli

ROOT = Path(__file__).parents[2]
VERBS = {"run", "plan", "status", "verify", "pipe", "bench", "convert", "demo", "doctor", "config"}


def test_help_is_quick_and_loads_nothing_heavy():
    program = (
        "import json, sys, time; start = time.perf_counter(); sys.argv = ['distilbatch', '--help']\n"
        "from distilbatch.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(json.dumps([end.code, time.perf_counter() - start, sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, capture_output=True, check=True, cwd=ROOT, text=True).stdout for _ in range(3)]
    found = [json.loads(run.splitlines()[-1]) for run in runs]
    assert all(code == 0 for code, _, _ in found)
    assert {"torch", "ray", "pyarrow", "numpy", "pydantic", "tokenizers", "transformers"} & set(found[0][2]) == set()
    assert min(seconds for _, seconds, _ in found) < 1


def test_help_lists_every_verb(call):
    ran = call("--help")
    assert ran.code == 0
    assert {line.split()[1] for line in ran.out.splitlines() if len(line.split()) > 1} >= VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(call, verb):
    ran = call(verb, "-h")
    assert ran.code == 0
    assert f"Usage: distilbatch {verb}" in ran.out


def test_the_version_is_that_of_the_package(call):
    assert call("--version").out == f"distilbatch {distilbatch.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn", "x"], "No such command 'runn'"),
        (["run"], "Missing argument 'CONFIG"),
        (["run", "job.yaml", "--limitt", "1"], "No such option"),
        (["run", "job.yaml", "--limit", "0"], "'--limit'"),
        (["run", "job.yaml", "--exit-no-data", "256"], "'--exit-no-data'"),
        (["demo", "--engine", "spark"], "'--engine'"),
    ],
)
def test_a_mistyped_command_is_a_usage_error(call, place, arguments, message):
    ran = call(*arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("path", ["s3://bucket/x", "~/x"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("run",), ("status",), ("verify",), ("convert",), ("convert", "model"), ("demo", "--out"), ("bench", "--data"),
        ("bench", "--model"), ("bench", "--save"), ("bench", "--plot"), ("pipe", "--model"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_path_that_names_another_place_than_is_meant_is_a_usage_error(call, place, arguments, path):
    ran = call(*arguments, path)
    assert (ran.code, ran.out) == (2, "")
    assert ("URLs are not opened" if ":" in path else "'~' is not expanded") in ran.err
    assert {item.name for item in place.folder.iterdir()} == {"model", "source", "job.yaml"}


def test_the_entry_point_is_there():
    scripts = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("distilbatch =")]
    assert scripts == ['distilbatch = "distilbatch.cli:main"']
    assert callable(distilbatch.cli.main)
