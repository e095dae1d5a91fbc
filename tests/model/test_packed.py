"""Packed tokens and layouts: documents of any lengths are described exactly, and malformed ones are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.model.packed import Layout, PackedTokens, Run

CPU = torch.device("cpu")


def test_consecutive_equal_lengths_are_one_run():
    packed = PackedTokens.from_lengths(torch.arange(9), [2, 2, 1, 3, 1])
    assert packed.runs == ((2, 2), (1, 1), (1, 3), (1, 1))
    assert packed.position_ids.tolist() == [0, 1, 0, 1, 0, 0, 1, 2, 0]
    assert (packed.num_docs, packed.max_length) == (5, 3)


def test_no_documents_are_a_valid_batch():
    packed = PackedTokens.from_lengths(torch.empty(0, dtype=torch.int64), [])
    assert (packed.runs, packed.num_docs, packed.max_length) == ((), 0, 0)


def test_an_empty_document_is_refused():
    with pytest.raises(ValueError, match="expected at least 1 token a document, found 0"):
        PackedTokens.from_lengths(torch.arange(3), [3, 0])


@pytest.mark.parametrize("lengths", [[2, 2], [6], []])
def test_lengths_that_do_not_add_up_are_refused(lengths):
    with pytest.raises(ValueError, match=rf"lengths: expected to add up to 5 tokens, found {sum(lengths)}"):
        PackedTokens.from_lengths(torch.arange(5), lengths)


def test_first_rows_are_the_starts_of_the_documents():
    rows, layout = Layout.of_lengths([3, 3, 1, 2]).select("first", device=CPU)
    assert rows.tolist() == [0, 3, 6, 7]
    assert layout.runs == (Run(2, 1, 3), Run(1, 1, 1), Run(1, 1, 2))


def test_first_rows_of_an_empty_document_are_refused():
    with pytest.raises(ValueError, match="found an empty document"):
        Layout.of_lengths([3, 0]).select("first", device=CPU)


@given(st.lists(st.integers(0, 5), max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_any_selection_asks_the_right_documents(lengths, data):
    total = sum(lengths)
    chosen = sorted(data.draw(st.sets(st.integers(0, total - 1)))) if total else []
    rows, layout = Layout.of_lengths(lengths).select(torch.tensor(chosen, dtype=torch.int64), device=CPU)
    documents = [i for i, length in enumerate(lengths) for _ in range(length)]
    asked = [(run.q_len, run.k_len) for run in layout.runs for _ in range(run.num_docs)]
    assert rows.tolist() == chosen
    assert asked == [(sum(documents[row] == i for row in chosen), length) for i, length in enumerate(lengths)]
    assert all(a[1:] != b[1:] for a, b in zip(layout.runs, layout.runs[1:], strict=False))  # runs are merged


@given(st.lists(st.integers(1, 5), max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_bounds_that_were_given_lead_to_the_selections_and_bounds_that_lengths_lead_to(lengths, data):
    total = sum(lengths)
    chosen = torch.tensor(sorted(data.draw(st.sets(st.integers(0, total - 1)))) if total else [], dtype=torch.int64)
    counted = Layout.of_lengths(lengths)
    given = PackedTokens.from_lengths(torch.zeros(total, dtype=torch.int64), lengths).layout
    for rows in (chosen, "first"):
        derived, expected = given.select(rows, device=CPU, on_device=None), counted.select(rows, device=CPU)
        assert derived.rows.tolist() == expected.rows.tolist()
        assert derived.layout == expected.layout
        for found, wanted in zip(derived.layout.bounds(CPU), expected.layout.bounds(CPU), strict=True):
            if isinstance(wanted, int):
                assert found == wanted
            else:
                assert (found.tolist(), found.dtype) == (wanted.tolist(), torch.int32)


def test_bounds_say_where_queries_and_keys_of_each_document_are_and_are_made_once():
    _, layout = Layout.of_lengths([3, 3, 1, 2]).select(torch.tensor([1, 2, 3, 8]), device=CPU)
    bounds = layout.bounds(CPU)
    assert (bounds.queries.tolist(), bounds.keys.tolist()) == ([0, 2, 3, 3, 4], [0, 3, 6, 7, 9])
    assert (bounds.max_queries, bounds.max_keys) == (2, 3)
    assert layout.bounds(CPU) is bounds


def test_rows_that_are_on_the_device_are_not_copied_there_again():
    rows = torch.tensor([1, 4])
    copy = rows.clone()
    assert Layout.of_lengths([3, 3]).select(rows, device=CPU, on_device=copy).rows is copy


@pytest.mark.parametrize("rows", [[1, 0], [0, 0], [-1, 2], [0, 6]])
def test_unsorted_or_outside_rows_are_refused(rows):
    with pytest.raises(ValueError, match=r"expected increasing token rows in \[0, 6\)"):
        Layout.of_lengths([4, 2]).select(torch.tensor(rows), device=CPU)


def test_the_key_mask_survives_a_selection():
    mask = torch.tensor([True, False, True])
    _, layout = Layout.of_lengths([3], key_mask=mask).select("first", device=CPU)
    assert layout.key_mask is mask
