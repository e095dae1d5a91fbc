"""Ratios and accuracy in a report, from passes that are known."""

from __future__ import annotations

import numpy as np
import pytest
from bench_fakes import make_workload, scripted

from distilbatch.bench.race import Pass, Standing
from distilbatch.bench.report import accuracy, compare_layouts, compare_speed
from distilbatch.bench.roster import ourselves


def standing(entrant, outputs=None, **passes):
    timed = {scope: [Pass(n, s, {}) for n, s in enumerate(seconds)] for scope, seconds in passes.items()}
    return Standing(entrant, outputs=outputs, passes=timed)


def test_ratios_are_taken_round_by_round_within_a_precision_and_the_fastest_peer_is_marked():
    found = compare_speed(
        [
            standing(ourselves("float32"), model=[1.0, 2.0, 1.0], job=[2.0, 2.0, 2.0]),
            standing(scripted("fast"), model=[2.0, 2.0, 2.0]),
            standing(scripted("slow"), model=[5.0, 10.0]),
            standing(scripted("pipeline"), text=[8.0, 8.0, 8.0]),
            standing(scripted("narrow", precision="int8"), model=[1.0, 1.0, 1.0]),
        ]
    )
    assert [(row["scope"], row["peer"], row["best_peer"], row["ratio"]) for row in found] == [
        ("model", "fast", True, {"median": 2.0, "min": 1.0, "max": 2.0}),
        ("model", "slow", False, {"median": 5.0, "min": 5.0, "max": 5.0}),
        ("job", "pipeline", True, {"median": 4.0, "min": 4.0, "max": 4.0}),
    ]


def test_errors_and_labels_are_compared_with_the_reference(tmp_path):
    wanted, found = np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[1.5, 2.0], [1.0, 1.25]])
    np.save(tmp_path / "wanted.npy", wanted)
    np.save(tmp_path / "found.npy", found)
    reference = standing(scripted("reference"), tmp_path / "wanted.npy")
    measured = standing(scripted("peer"), tmp_path / "found.npy")
    workload = make_workload(tmp_path)
    assert accuracy(measured, reference, workload) == {"max_error": 2.0, "agreement": 0.5}
    assert accuracy(measured, None, workload) == {"max_error": None, "agreement": None}
    embeddings = make_workload(tmp_path, task="feature-extraction", pooling="mean")
    assert accuracy(measured, reference, embeddings) == {"max_error": 2.0, "agreement": None}


def test_layouts_are_compared_by_speed():
    one = standing(ourselves("int8"), model=[3.0])
    many = standing(scripted("ours-int8-processes"), model=[2.0])
    many.about["team"] = 2
    (row,) = compare_layouts([one, many])
    assert (row["name"], row["processes"], row["ratio"]["median"]) == ("ours-int8", 2, pytest.approx(1.5))
