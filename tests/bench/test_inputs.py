"""Padded batches: every document once, within the budget, padding masked."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from token_batches import random_token_batch

from distilbatch.bench.inputs import pad_batches
from distilbatch.bench.prepare import peer_batch_tokens
from distilbatch.inference.budget import CPU_BATCH_TOKENS, batch_tokens_for


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(40, 200))
def test_batches_hold_every_document_once_within_the_budget(lengths, budget):
    tokens = random_token_batch(lengths, vocab_size=9)
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


def test_peers_on_a_gpu_may_fill_it_as_we_do():
    assert peer_batch_tokens("cuda:0", "auto") == batch_tokens_for(1 << 40, bytes_per_token=1.0)
    assert peer_batch_tokens("cuda:0", 4096) == 4096
    assert peer_batch_tokens("cpu", 4096) == peer_batch_tokens("cpu", "auto") == CPU_BATCH_TOKENS


def test_a_document_longer_than_the_budget_has_a_batch_of_its_own():
    batches = pad_batches(random_token_batch([9, 2, 2], vocab_size=9), max_batch_tokens=4)
    assert [batch.documents.tolist() for batch in batches] == [[0], [1, 2]]


def test_few_documents_of_many_lengths_are_not_padded_to_the_longest():
    lengths = [400, 200, 190, 100, 90, 60, 30, 30, 20, 10] * 2
    batches = pad_batches(random_token_batch(lengths, vocab_size=9), max_batch_tokens=2048)
    computed = sum(batch.input_ids.size for batch in batches)
    assert computed < 1.15 * sum(lengths)
