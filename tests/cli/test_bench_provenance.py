"""What ``bench`` says of where its report comes from, in JSON, in a file and in its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import distilbatch.bench
from distilbatch.bench import commands, provenance, run

RESULTS = Path(distilbatch.bench.__file__).parent / "results"
KINDS = {
    "race": ((), "epyc-zen3-2-cores.json"),
    "commands": (("--jobs", "5:local"), "epyc-zen3-2-cores-1000-rows.json"),
}
KNOWN = ["command", "date", "version", "commit"]


@pytest.fixture(params=KINDS)
def words(request, monkeypatch, tmp_path):
    """Words of a command that measures nothing: its figures are those of a committed report, without what it says."""
    chosen, name = KINDS[request.param]

    def measure(options):
        # Whoever changes the code while this goes on changes nothing about what was measured.
        monkeypatch.setattr(provenance, "commit_of", lambda package: "too late")
        report = json.loads((RESULTS / name).read_text("utf-8"))
        report.pop("provenance", None)
        return report

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "commit_of", lambda package: "0123abc+changes")
    monkeypatch.setattr(run, "run_bench", measure)
    monkeypatch.setattr(commands, "time_commands", measure)
    return ("bench", "--data", "../my docs", *chosen, "--rounds=2")


def test_the_report_says_it_in_json_and_in_the_file(words, call, tmp_path):
    ran = call(*words, "--save", "report.json", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    found = report["provenance"]
    assert list(found) == KNOWN
    typed = " ".join(words).replace("../my docs", "'../my docs'")
    assert found["command"] == f"distilbatch {typed} --save report.json --json"
    assert found["commit"] == "0123abc+changes"


def test_the_table_begins_with_it(words, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = [" ".join(line.split()) for line in call(*words).out.splitlines()]
    typed = " ".join(words).replace("../my docs", "'../my docs'")
    assert lines[:2] == ["measured on", f"command distilbatch {typed}"]
    assert lines[2].startswith("date 20")
    assert lines[3] == f"code distilbatch {distilbatch.__version__}, commit 0123abc+changes"
    assert lines[4].startswith("machine AMD EPYC")


def test_without_a_commit_the_table_names_the_version_alone(words, call, monkeypatch):
    monkeypatch.setattr(provenance, "commit_of", lambda package: None)
    lines = [" ".join(line.split()) for line in call(*words).out.splitlines()]
    assert f"code distilbatch {distilbatch.__version__}" in lines
