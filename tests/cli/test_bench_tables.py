"""The tables of a benchmark: of a report that was measured, with figures that no machine at hand has."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import distilbatch.bench
from distilbatch.cli.bench_tables import bench_tables

MEASURED = Path(distilbatch.bench.__file__).parent / "results" / "epyc-zen3-2-cores.json"
TARGET = {"what": "card: documents/s", "at_most": False, "target": 35_000.0, "verdict": "unclear"}


@pytest.fixture
def report():
    """A report of a CPU, without targets."""
    return {**json.loads(MEASURED.read_text("utf-8")), "targets": []}


def shown(report):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*bench_tables(report), sep="\n")
    return console.export_text()


def test_ratios_have_their_range_and_those_that_show_nothing_are_marked(report):
    row = next(row for row in report["ratios"] if not row["best_peer"])
    row |= {"ratio": {"median": 1.1, "min": 0.93, "max": 1.2}, "shown": False}
    lines = shown(report).splitlines()
    line = next(line for line in lines if line.startswith(f"{row['ours']} / {row['peer']} "))
    assert f"{row['ratio']['min']:.2f}x" in line
    assert line.endswith("not shown")
    assert any(line.endswith("best peer") for line in lines)


def test_targets_are_shown_with_what_was_found_of_them_unless_nothing_was(report):
    assert "target" not in shown(report)
    found = {"median": 35_500.4, "min": 34_000.0, "max": 36_000.0}
    report["targets"] = [{**TARGET, "found": found}, {**TARGET, "what": "other", "found": None}]
    text = " ".join(shown(report).split())
    assert "card: documents/s at least 35,000 35,500 34,000 36,000 unclear" in text
    assert "other" not in text


def test_the_share_of_a_card_s_peak_has_a_column_where_it_is_known(report):
    assert "of peak" not in shown(report)
    measured = next(item for item in report["contestants"] if item["documents_per_s"])
    measured["share_of_peak"] = {"median": 0.4321, "min": 0.4, "max": 0.5}
    text = shown(report)
    assert "of peak" in text
    assert "43.2%" in text


def test_repeats_that_were_left_out_are_told(report):
    report["data"]["repeats_left_out"] = 12
    assert "12 with the tokens of another left out" in shown(report)
