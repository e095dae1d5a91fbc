"""Remaining rows are all rows minus claimed ones, file by file."""

from __future__ import annotations

import pytest

from distilbatch.records import Fragment
from distilbatch.shards.remaining import remaining_ranges

A = Fragment("a", 10, "x", 100, (100,), (1000,))
B = Fragment("b", 10, "y", 0, (), ())


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([], [(0, 100)]),
        ([(0, 100)], None),
        ([(0, 10), (10, 100)], None),
        ([(20, 30)], [(0, 20), (30, 100)]),
        ([(50, 100), (0, 20)], [(20, 50)]),
        ([(10, 30), (20, 40), (15, 18), (10, 30)], [(0, 10), (40, 100)]),
        ([(90, 500)], [(0, 90)]),
        ([(200, 300)], [(0, 100)]),
        ([(7, 7), (9, 3)], [(0, 100)]),
    ],
)
def test_claims_are_subtracted_in_any_order(claims, expected):
    remaining = remaining_ranges([A, B], [(A.identity, start, stop) for start, stop in claims])
    assert remaining == ({} if expected is None else {0: expected})


def test_a_claim_counts_only_for_the_file_it_was_made_for():
    rewritten = Fragment("a", 10, "z", 100, (100,), (1000,))
    assert remaining_ranges([rewritten], [(A.identity, 0, 100)]) == {0: [(0, 100)]}
    assert remaining_ranges([A], [(("gone", 1, "q"), 0, 5)]) == {0: [(0, 100)]}
