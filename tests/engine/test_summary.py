"""What a report counts and what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeExecutor, Workspace

from distilbatch.engine import summary
from distilbatch.engine.driver import Driver, resolve_run


class Labelling(FakeExecutor):
    """Its shards have counted these labels."""

    counts: list[dict[str, dict[str, int]]]

    def _stage(self, task):
        return replace(super()._stage(task), label_counts=self.counts[task.shard.index])


@pytest.fixture
def report(tmp_path: Path, monkeypatch):
    workspace = Workspace(tmp_path, rows_per_shard=4)
    workspace.write_file("a.parquet", 8)
    monkeypatch.setattr(summary, "MAX_COUNTED_LABELS", 3)

    def run(*counts):
        executor = type("Told", (Labelling,), {"counts": list(counts)})
        job = resolve_run(workspace.config())
        return Driver(job, make_executor=lambda job, spec: executor(spec)).run()

    return run


def test_labels_are_added_up_over_shards(report):
    found = report({"topic": {"a": 1, "b": 2}}, {"topic": {"b": 3, "c": 1}})
    assert found.label_counts == {"topic": {"b": 5, "a": 1, "c": 1}}


def test_a_head_with_too_many_labels_is_left_out(report):
    found = report({"topic": {"a": 1, "b": 2}, "tone": {"x": 4}}, {"topic": {"c": 3, "d": 1}, "tone": {}})
    assert found.label_counts == {"tone": {"x": 4}}


def test_a_head_that_one_shard_had_too_many_labels_of_is_left_out(report):
    assert report({"topic": {"a": 4}, "tone": {"x": 4}}, {"tone": {"x": 4}}).label_counts == {"tone": {"x": 8}}
