from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.engine.crashes import MAX_NEIGHBOURS, find_crashing_rows, probe_timeout_s, without_rows
from distilbatch.errors import ResourceError

suspects = st.lists(st.integers(0, 10_000), unique=True, max_size=300).map(lambda rows: tuple(sorted(rows)))


class Worker:
    """Computes rows one after the other and dies of the guilty ones, or by accident at its n-th row."""

    def __init__(self, guilty, *, accidents=()) -> None:
        self.guilty = frozenset(guilty)
        self.accidents = frozenset(accidents)
        self.computed = 0
        self.deaths = 0

    def dies_at(self, rows):
        for row in rows:
            self.computed += 1
            if row in self.guilty or self.computed in self.accidents:
                self.deaths += 1
                return row
        return None


@settings(deadline=None)
@given(rows=suspects, data=st.data())
def test_exactly_the_guilty_rows_are_found_with_two_deaths_each(rows, data):
    # No more than MAX_NEIGHBOURS of them can be neighbours here.
    guilty = data.draw(st.lists(st.sampled_from(rows), unique=True, max_size=MAX_NEIGHBOURS)) if rows else []
    worker = Worker([*guilty, 10_001])
    assert find_crashing_rows(rows, dies_at=worker.dies_at) == tuple(sorted(guilty))
    assert worker.deaths == 2 * len(guilty)
    assert worker.computed <= len(rows) + len(guilty)


@settings(deadline=None)
@given(rows=suspects.filter(bool), data=st.data(), when=st.integers(1, 200))
def test_an_accident_accuses_nobody(rows, data, when):
    guilty = data.draw(st.lists(st.sampled_from(rows), unique=True, max_size=3))
    worker = Worker(guilty, accidents={when})
    found = find_crashing_rows(rows, dies_at=worker.dies_at)
    assert set(found) <= set(guilty)
    assert worker.deaths <= 2 * len(guilty) + 1


def test_rows_that_all_survive_are_innocent():
    assert find_crashing_rows(tuple(range(50)), dies_at=lambda rows: None) == ()


def test_no_suspects_need_no_worker():
    def refuse(rows):
        raise AssertionError("asked to compute nothing")

    assert find_crashing_rows((), dies_at=refuse) == ()


def test_a_death_at_a_row_nobody_asked_about_ends_the_search():
    assert find_crashing_rows((1, 2, 3), dies_at=lambda rows: 99) == ()


def test_neighbours_that_kill_are_found_up_to_a_limit():
    worker = Worker(range(10, 10 + MAX_NEIGHBOURS))
    assert find_crashing_rows(tuple(range(100)), dies_at=worker.dies_at) == tuple(range(10, 10 + MAX_NEIGHBOURS))


def test_a_cause_that_is_no_row_ends_the_search_soon():
    worker = Worker(range(10_000))
    with pytest.raises(ResourceError, match=r"row after row kills its worker.*found rows 5 to 13"):
        find_crashing_rows(tuple(range(5, 4000)), dies_at=worker.dies_at)
    assert worker.deaths == MAX_NEIGHBOURS + 1


def test_without_rows_keeps_the_order():
    assert without_rows((5, 1, 4, 2), (4, 9)) == (5, 1, 2)


@pytest.mark.parametrize(("limit", "probe"), [(2, 2), (60, 60), (300, 60), (600, 60), (1800, 180)])
def test_a_single_row_gets_less_time_than_a_batch_but_never_too_little(limit, probe):
    assert probe_timeout_s(limit) == probe
