"""Packing as properties: every document once, within the budget, longest first, nothing padded."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_batches import random_token_batch

from distilbatch.inference.packing import gather, pack

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


@settings(max_examples=200, deadline=None)
@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_batches_are_a_permutation_within_the_budget_longest_first(lengths, budget):
    array = np.array(lengths, dtype=np.int64)
    batches = pack(array, max_batch_tokens=budget)
    order = np.concatenate([np.empty(0, np.int64), *batches])
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)
    assert all(array[batch].sum() <= budget or len(batch) == 1 for batch in batches)
    assert (np.diff(array[order]) <= 0).all()  # so equal lengths are neighbours, too
    # No batch could have taken the next document: the budget is used, not just kept.
    for batch, following in pairwise(batches):
        assert array[batch].sum() + array[following[0]] > budget


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_documents_of_equal_length_keep_their_order(lengths, budget):
    order = np.concatenate([np.empty(0, np.int64), *pack(np.array(lengths, np.int64), max_batch_tokens=budget)])
    assert order.tolist() == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 10, []),
        ([5], 1, [[0]]),
        ([3, 3, 3], 6, [[0, 1], [2]]),
        ([3, 3, 3], 5, [[0], [1], [2]]),
        ([1, 9, 2], 4, [[1], [2, 0]]),
        ([4, 4], 8, [[0, 1]]),
    ],
)
def test_known_batches(lengths, budget, expected):
    found = pack(np.array(lengths, dtype=np.int64), max_batch_tokens=budget)
    assert [batch.tolist() for batch in found] == expected


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), max_size=30), data=st.data())
def test_gather_lays_the_chosen_documents_end_to_end(lengths, data):
    tokens = random_token_batch(lengths, vocab_size=1000)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=40)) if lengths else []
    naive = [int(token) for i in chosen for token in tokens.input_ids[tokens.cu_seqlens[i] : tokens.cu_seqlens[i + 1]]]
    gathered = gather(tokens, np.array(chosen, dtype=np.int64))
    assert gathered.dtype == np.int32
    assert gathered.tolist() == naive


def test_a_sort_buffer_is_packed_in_milliseconds():
    lengths = np.random.default_rng(1).integers(3, 512, size=16_384)
    tokens = random_token_batch(lengths.tolist(), vocab_size=1000)
    start = time.thread_time()
    batches = pack(lengths, max_batch_tokens=2048)
    total = sum(len(gather(tokens, batch)) for batch in batches)
    assert total == lengths.sum()
    assert time.thread_time() - start < 0.5
