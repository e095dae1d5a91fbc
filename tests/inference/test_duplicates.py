"""Repeated documents: what is computed once and spread equals what is computed for each."""

from __future__ import annotations

import numpy as np
import pytest
from token_batches import token_batch

from distilbatch.inference.duplicates import find_distinct
from distilbatch.records import HeadOutput, TokenBatch


def compute(tokens: TokenBatch, *, axis: str, skip: int) -> HeadOutput:
    """A head that says something of each document or of each even token; documents of ``skip`` tokens are left out."""
    positions, values, ids = [], [], []
    for index in range(len(tokens)):
        start, stop = int(tokens.cu_seqlens[index]), int(tokens.cu_seqlens[index + 1])
        own = tokens.input_ids[start:stop]
        if len(own) == skip:
            continue
        if axis == "documents":
            positions.append(index)
            values.append([float(own.sum()), float(own[0])])
            ids.append([int(own[-1])])
        else:
            for place in np.flatnonzero(own % 2 == 0).tolist():
                positions.append(start + place)
                values.append([float(own[place]), float(own.sum() + place)])
                ids.append([place])
    return HeadOutput(
        np.array(positions, dtype=np.int64),
        np.array(values, dtype=np.float32).reshape(-1, 2),
        np.array(ids, dtype=np.int64).reshape(-1, 1),
        tokens_computed=len(tokens.input_ids),
    )


@pytest.mark.parametrize("axis", ["documents", "tokens"])
@pytest.mark.parametrize("seed", range(40))
def test_every_document_gets_what_it_would_have_got_alone(axis, seed):
    rng = np.random.default_rng(seed)
    kinds = [rng.integers(0, 6, size=rng.integers(1, 6)).tolist() for _ in range(rng.integers(1, 6))]
    tokens = token_batch([kinds[i] for i in rng.integers(0, len(kinds), size=rng.integers(1, 30))])
    distinct = find_distinct(tokens)
    skip = int(rng.integers(0, 4))
    found = distinct.spread(compute(distinct.tokens, axis=axis, skip=skip), axis)
    expected = compute(tokens, axis=axis, skip=skip)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert len({tuple(tokens.input_ids[a:b]) for a, b in bounds(tokens)}) == len(distinct.tokens)
    assert found.tokens_computed == len(distinct.tokens.input_ids)


def bounds(tokens: TokenBatch):
    return zip(tokens.cu_seqlens[:-1], tokens.cu_seqlens[1:], strict=True)


def test_documents_that_differ_are_passed_on_as_they_are():
    tokens = token_batch([[1, 2], [1, 2, 3], [2, 1]])
    distinct = find_distinct(tokens)
    assert distinct.tokens is tokens
    assert distinct.repeated == 0
    assert distinct.members(np.array([2, 0])).tolist() == [0, 2]


def test_the_members_of_a_kind_are_all_its_documents():
    distinct = find_distinct(token_batch([[5], [7], [5], [7], [5]]))
    assert distinct.repeated == 3
    assert distinct.members(np.array([0])).tolist() == [0, 2, 4]
    assert distinct.tokens.sequences.tolist() == [0, 1]


def test_no_documents():
    distinct = find_distinct(token_batch([]))
    nothing = HeadOutput(np.empty(0, np.int64), np.empty((0, 0), np.float32))
    assert len(distinct.spread(nothing, "tokens").positions) == 0
