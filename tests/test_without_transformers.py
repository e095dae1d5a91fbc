"""The library without transformers: the oracle of the tests and a peer of the benchmark, never a part of what runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import tiny_job

ROOT = Path(__file__).parents[1]

PROGRAM = """
import importlib, json, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
import distilbatch

names = [module.name for module in pkgutil.walk_packages(distilbatch.__path__, "distilbatch.")]
names = [name for name in names if not name.startswith("distilbatch.bench.peers.")]
for name in names:
    importlib.import_module(name)
annotate = distilbatch.Annotator("text-classification", model=sys.argv[1], device="cpu")
found = annotate(["red fish", None])
report = distilbatch.run(json.loads(sys.argv[2]))
print(json.dumps([len(names), found, report.num_rows, "transformers" in sys.modules]))
"""


def test_every_module_imports_and_jobs_run(tmp_path):
    tiny_job.write_checkpoint(tmp_path / "model")
    tiny_job.write_source(tmp_path / "source" / "a.parquet", 30)
    config = json.dumps(tiny_job.job_config(tmp_path))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model"), config]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    modules, found, rows, loaded = json.loads(ran.stdout.splitlines()[-1])
    assert modules > 100
    assert found[0]["label"] in {"yes", "no"}
    assert found[1] is None
    assert rows == 30
    assert not loaded
