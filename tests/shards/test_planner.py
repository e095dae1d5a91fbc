"""Shards cover every row once, in order, within the limits, whatever else is in the source."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.records import Fragment
from distilbatch.shards.planner import plan_shards, suitable_max_rows, with_cut_texts
from distilbatch.shards.remaining import remaining_ranges


def fragment(path, row_groups, text_bytes=None):
    sizes = tuple(text_bytes) if text_bytes is not None else tuple(10 * rows for rows in row_groups)
    return Fragment(path, 1000, "f" * 64, sum(row_groups), tuple(row_groups), sizes)


def plan(fragments, **changes):
    settings_ = {"model_fingerprint": "m", "semantic_fingerprint": "s", "max_rows": 100, "max_text_bytes": 1000}
    return plan_shards(fragments, **{**settings_, **changes})


def bounds(shards):
    return [(shard.fragment, shard.row_start, shard.row_stop) for shard in shards]


@pytest.mark.parametrize(
    ("row_groups", "expected"),
    [
        ([], []),
        ([0, 0], []),
        ([40], [(0, 40)]),
        ([100], [(0, 100)]),
        ([40, 40, 40], [(0, 80), (80, 120)]),
        ([0, 50, 0, 50, 0], [(0, 100)]),
        ([101], [(0, 50), (50, 101)]),
        ([250], [(0, 83), (83, 166), (166, 250)]),
        ([10, 250, 10, 20], [(0, 10), (10, 93), (93, 176), (176, 260), (260, 290)]),
        ([1] * 205, [(0, 100), (100, 200), (200, 205)]),
    ],
)
def test_small_row_groups_join_and_only_large_ones_are_split(row_groups, expected):
    shards = plan([fragment("a", row_groups)], max_text_bytes=10**9)
    assert [(start, stop) for _, start, stop in bounds(shards)] == expected


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        (0, None, 1024),
        (1000, None, 1024),
        (8193, None, 1025),
        (40_000, None, 5000),
        (10**9, None, 8192),
        (10**9, 100, 1024),
        (10**9, 20_000, 2500),
    ],
)
def test_small_tables_make_several_shards_and_large_ones_full_ones(rows, limit, expected):
    fragments = [fragment("a", [rows // 3]), fragment("b", [rows - rows // 3])]
    assert suitable_max_rows(fragments, limit=limit) == expected
    assert suitable_max_rows(fragments, ranges={1: [(0, rows - rows // 3)]}, limit=limit) <= expected


def test_rows_that_are_done_make_no_shards_larger():
    fragments = [fragment("a", [100_000]), fragment("b", [100_000])]
    assert suitable_max_rows(fragments, ranges={0: [(10, 20), (90_000, 100_000)]}) == 1252


def test_text_bytes_cut_a_shard_before_its_rows_do():
    shards = plan([fragment("a", [10, 10, 10], [600, 600, 3000])])
    assert bounds(shards) == [(0, 0, 10), (0, 10, 20), (0, 20, 23), (0, 23, 26), (0, 26, 30)]


def test_part_of_a_row_group_weighs_its_share():
    fragments = [fragment("a", [100], [2000])]
    assert bounds(plan(fragments, ranges={0: [(0, 50)]})) == [(0, 0, 50)]
    assert bounds(plan(fragments, ranges={0: [(0, 60)]})) == [(0, 0, 30), (0, 30, 60)]


def test_what_is_cut_off_a_text_does_not_make_shards_smaller():
    fragments = [fragment("a", [100, 100], [100_000, 500])]
    assert len(plan(fragments)) == 101
    cut = plan(with_cut_texts(fragments, max_row_bytes=20))
    assert bounds(cut) == [(0, 0, 50), (0, 50, 100), (0, 100, 200)]
    assert plan(with_cut_texts(fragments, max_row_bytes=10**6)) == plan(fragments)


def test_one_row_of_any_size_is_a_shard():
    assert bounds(plan([fragment("a", [1, 1], [10**9, 5])])) == [(0, 0, 1), (0, 1, 2)]


def test_a_shard_never_crosses_a_file_or_a_gap():
    fragments = [fragment("a", [30]), fragment("b", [0]), fragment("c", [30])]
    shards = plan(fragments, ranges={0: [(0, 10), (20, 30)], 2: [(5, 6)]})
    assert bounds(shards) == [(0, 0, 10), (0, 20, 30), (2, 5, 6)]


def test_limit_takes_the_first_rows_in_plan_order():
    fragments = [fragment("a", [30]), fragment("b", [30])]
    assert bounds(plan(fragments, limit=40)) == [(0, 0, 30), (1, 0, 10)]
    assert bounds(plan(fragments, limit=30)) == [(0, 0, 30)]
    assert plan(fragments, limit=0) == ()


def test_shard_ids_are_pinned():
    # A changed id means that no earlier run can be resumed; change it only on purpose.
    (shard,) = plan([fragment("a", [3])])
    assert shard.shard_id == "420e098ed48f751713f0bac9e2d0d66aa9dfd57661acbed1da3d571d440720b2"


@pytest.mark.parametrize("change", ["model", "semantic", "path", "size", "digest", "rows"])
def test_a_shard_id_changes_with_everything_it_stands_for(change):
    base = plan([fragment("a", [3])])[0].shard_id
    other = {
        "model": lambda: plan([fragment("a", [3])], model_fingerprint="n"),
        "semantic": lambda: plan([fragment("a", [3])], semantic_fingerprint="t"),
        "path": lambda: plan([fragment("b", [3])]),
        "size": lambda: plan([Fragment("a", 1001, "f" * 64, 3, (3,), (30,))]),
        "digest": lambda: plan([Fragment("a", 1000, "e" * 64, 3, (3,), (30,))]),
        "rows": lambda: plan([fragment("a", [3])], limit=2),
    }[change]()
    assert other[0].shard_id != base


@pytest.mark.parametrize("ranges", [[(5, 3)], [(-1, 3)], [(0, 31)], [(0, 5), (4, 6)], [(10, 12), (0, 2)]])
def test_bad_ranges_are_refused(ranges):
    with pytest.raises(ValueError, match=r"a: expected sorted and disjoint row ranges inside \[0, 30\)"):
        plan([fragment("a", [30])], ranges={0: ranges})


@pytest.mark.parametrize("change", [{"max_rows": 0}, {"max_text_bytes": 0}, {"limit": -1}])
def test_bad_limits_are_refused(change):
    with pytest.raises(ValueError, match="expected max_rows and max_text_bytes of at least 1"):
        plan([fragment("a", [30])], **change)


row_groups = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5000)), max_size=8)


def build(sources):
    return [fragment(f"f{i}", [rows for rows, _ in s], [size for _, size in s]) for i, s in enumerate(sources)]


@settings(deadline=None, max_examples=200)
@given(
    sources=st.lists(row_groups, max_size=4),
    claims=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.integers(0, 300)), max_size=8),
    max_rows=st.integers(1, 80),
    max_text_bytes=st.integers(1, 4000),
    limit=st.none() | st.integers(0, 400),
)
def test_every_unclaimed_row_is_planned_once_in_order_and_within_limits(
    sources, claims, max_rows, max_text_bytes, limit
):
    fragments = build(sources)
    claimed = [(fragments[i].identity, start, stop) for i, start, stop in claims if i < len(fragments)]
    taken = {(i, row) for i, start, stop in claims for row in range(start, stop)}
    wanted = [(i, row) for i, f in enumerate(fragments) for row in range(f.num_rows) if (i, row) not in taken]
    ranges = remaining_ranges(fragments, claimed)
    arguments = {"ranges": ranges, "max_rows": max_rows, "max_text_bytes": max_text_bytes, "limit": limit}
    shards = plan(fragments, **arguments)

    planned = [(s.fragment, row) for s in shards for row in range(s.row_start, s.row_stop)]
    assert planned == (wanted if limit is None else wanted[:limit])
    assert [s.index for s in shards] == list(range(len(shards)))
    assert all(s.num_rows <= max_rows for s in shards)
    assert len({s.shard_id for s in shards}) == len(shards)
    assert plan(fragments, **arguments) == shards


@settings(deadline=None, max_examples=100)
@given(sources=st.lists(row_groups, min_size=1, max_size=3), added=row_groups)
def test_added_files_do_not_change_the_shard_ids_of_others(sources, added):
    fragments = build(sources)
    before = {s.shard_id for s in plan(fragments)}
    after = plan([fragment("a-new", [r for r, _ in added], [b for _, b in added]), *fragments])
    assert {s.shard_id for s in after if s.fragment > 0} == before
