"""Token batches on their way to a device and back: everything arrives in its place, and CPUs copy nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_batches import random_token_batch

from distilbatch.inference.packing import gather, token_index
from distilbatch.inference.transfer import Arrival, Mark, send
from distilbatch.model.packed import PackedTokens

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30), data=st.data())
def test_what_is_sent_is_what_was_chosen(lengths, data):
    tokens = random_token_batch(lengths, vocab_size=6)
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True, min_size=1)))
    sent = send(tokens, chosen, token_ids=(3, 99), device=CPU)
    expected = PackedTokens.from_lengths(torch.from_numpy(gather(tokens, chosen)), tokens.lengths[chosen].tolist())
    assert sent.packed.input_ids.tolist() == expected.input_ids.tolist()
    assert sent.packed.position_ids.tolist() == expected.position_ids.tolist()
    assert sent.packed.runs == expected.runs
    assert sent.packed.cu_seqlens.tolist() == [0, *np.cumsum(tokens.lengths[chosen]).tolist()]
    np.testing.assert_array_equal(sent.index, token_index(tokens, chosen))
    rows = (expected.input_ids == 3).nonzero().flatten()
    assert sent.host_rows[3].tolist() == sent.selections[3].rows.tolist() == rows.tolist()
    assert sent.selections[3].layout == expected.layout.select(rows, device=CPU).layout
    assert sent.selections[3].rows.dtype == torch.int64
    assert len(sent.host_rows[99]) == len(sent.selections[99].rows) == 0


def test_results_on_a_cpu_are_not_copied_unless_their_format_changes():
    values = torch.arange(4.0)
    assert Arrival(values, torch.float32).land().data_ptr() == values.data_ptr()
    landed = Arrival(values.bfloat16(), torch.float32).land()
    assert (landed.dtype, landed.tolist()) == (torch.float32, [0, 1, 2, 3])
    Mark(CPU).wait()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_results_of_a_card_land_in_memory_of_their_own(dtype):
    card = torch.device("cuda", 0)
    sent = [torch.full((1000, 7), float(step), device=card).to(dtype).T for step in range(8)]
    wanted = torch.int64 if dtype is torch.int64 else torch.float32
    flights = [(Arrival(values, wanted), Mark(card)) for values in sent]
    for step, (arrival, mark) in enumerate(flights):
        mark.wait()
        landed = arrival.land()
        assert (landed.dtype, landed.is_pinned(), landed.shape) == (wanted, False, (7, 1000))
        assert (landed == step).all()
