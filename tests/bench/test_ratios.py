"""Ratios from passes that are known, and whether they show anything."""

from __future__ import annotations

import pytest
from bench_fakes import scripted, timed

from distilbatch.bench.ratios import compare_layouts, compare_speed
from distilbatch.bench.roster import ourselves


def test_ratios_are_taken_round_by_round_within_a_precision_and_the_fastest_peer_is_marked():
    found = compare_speed(
        [
            timed(ourselves("float32"), model=[1.0, 2.0, 1.0], job=[2.0, 2.0, 2.0]),
            timed(scripted("fast"), model=[2.0, 2.0, 2.0]),
            timed(scripted("slow"), model=[5.0, 10.0]),
            timed(scripted("pipeline"), text=[8.0, 8.0, 8.0]),
            timed(scripted("narrow", precision="int8"), model=[1.0, 1.0, 1.0]),
        ]
    )
    assert [(row["scope"], row["peer"], row["best_peer"], row["ratio"]) for row in found] == [
        ("model", "fast", True, {"median": 2.0, "min": 1.0, "max": 2.0}),
        ("model", "slow", False, {"median": 5.0, "min": 5.0, "max": 5.0}),
        ("job", "pipeline", True, {"median": 4.0, "min": 4.0, "max": 4.0}),
    ]


def test_recipes_that_take_texts_are_compared_with_our_job_in_every_precision():
    found = compare_speed(
        [
            timed(ourselves("int8"), model=[1.0, 1.0], job=[2.0, 2.0]),
            timed(scripted("pipeline"), text=[8.0, 8.0]),
            timed(scripted("peer"), model=[3.0, 3.0]),
        ]
    )
    (row,) = found
    assert (row["peer"], row["precision"], row["peer_precision"]) == ("pipeline", "int8", "float32")
    assert row["ratio"]["median"] == 4.0


@pytest.mark.parametrize(
    ("theirs", "shown"),
    [([1.2, 1.5], True), ([0.5, 0.9], True), ([0.9, 1.5], False), ([1.0, 1.5], False), ([1.5], False)],
)
def test_a_ratio_is_shown_where_the_range_of_several_rounds_leaves_out_1(theirs, shown):
    (row,) = compare_speed([timed(ourselves("float32"), model=[1.0, 1.0]), timed(scripted("peer"), model=theirs)])
    assert row["shown"] is shown


def test_layouts_are_compared_by_speed():
    one = timed(ourselves("int8"), model=[3.0, 3.0])
    many = timed(scripted("ours-int8-processes"), model=[2.0, 2.0])
    many.about["team"] = 2
    (row,) = compare_layouts([one, many])
    assert (row["name"], row["processes"], row["ratio"]["median"], row["shown"]) == (
        "ours-int8",
        2,
        pytest.approx(1.5),
        True,
    )
