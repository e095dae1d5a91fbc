"""Accuracy in a report, from outputs that are known."""

from __future__ import annotations

import numpy as np
from bench_fakes import make_workload, scripted

from distilbatch.bench.race import Standing
from distilbatch.bench.report import accuracy


def test_errors_and_labels_are_compared_with_the_reference(tmp_path):
    wanted, found = np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[1.5, 2.0], [1.0, 1.25]])
    np.save(tmp_path / "wanted.npy", wanted)
    np.save(tmp_path / "found.npy", found)
    reference = Standing(scripted("reference"), outputs=tmp_path / "wanted.npy")
    measured = Standing(scripted("peer"), outputs=tmp_path / "found.npy")
    workload = make_workload(tmp_path)
    assert accuracy(measured, reference, workload) == {"max_error": 2.0, "agreement": 0.5}
    assert accuracy(measured, None, workload) == {"max_error": None, "agreement": None}
    embeddings = make_workload(tmp_path, task="feature-extraction", pooling="mean")
    assert accuracy(measured, reference, embeddings) == {"max_error": 2.0, "agreement": None}
