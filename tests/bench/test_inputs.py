"""Padded batches: every document once, within the budget, padding masked."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distilbatch.bench.inputs import pad_batches
from distilbatch.records import TokenBatch


def documents(lengths: list[int]) -> TokenBatch:
    ends = np.cumsum([0, *lengths])
    count = len(lengths)
    ids = np.arange(1, ends[-1] + 1, dtype=np.int32)
    zeros = np.zeros(count, dtype=np.int32)
    return TokenBatch(ids, ends.astype(np.int64), np.arange(count), zeros, zeros.astype(bool))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(40, 200))
def test_batches_hold_every_document_once_within_the_budget(lengths, budget):
    tokens = documents(lengths)
    batches = pad_batches(tokens, max_batch_tokens=budget)
    assert sorted(np.concatenate([batch.documents for batch in batches]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert batch.input_ids.size <= budget
        for row, document in enumerate(batch.documents.tolist()):
            start, stop = tokens.cu_seqlens[document : document + 2]
            assert (
                batch.input_ids[row][batch.attention_mask[row] == 1].tolist() == tokens.input_ids[start:stop].tolist()
            )
            assert not batch.input_ids[row][batch.attention_mask[row] == 0].any()


def test_a_document_longer_than_the_budget_has_a_batch_of_its_own():
    batches = pad_batches(documents([9, 2, 2]), max_batch_tokens=4)
    assert [batch.documents.tolist() for batch in batches] == [[0], [1, 2]]


def test_few_documents_of_many_lengths_are_not_padded_to_the_longest():
    lengths = [400, 200, 190, 100, 90, 60, 30, 30, 20, 10] * 2
    computed = sum(batch.input_ids.size for batch in pad_batches(documents(lengths), max_batch_tokens=2048))
    assert computed < 1.15 * sum(lengths)
