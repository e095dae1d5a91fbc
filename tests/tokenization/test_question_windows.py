"""Pairs whose first text, a question, has a limit: what is kept of it, and the windows that the second is read in."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilbatch.errors import ConfigError
from distilbatch.tokenization import DocumentTokenizer
from distilbatch.tokenization.encode import Cut, cut_question, longest_stride

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##s", "##ing", "#")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path


@given(
    first=st.integers(0, 80),
    second=st.integers(1, 300),
    room=st.integers(2, 70),
    share=st.floats(0, 1),
    limit=st.integers(1, 70),
)
def test_windows_cover_the_second_text_share_the_stride_and_get_on(first, second, room, share, limit):
    stride = int(share * longest_stride(room))
    cuts = list(cut_question(first, second, room, stride, max_question=limit))
    kept = {cut.first[1] for cut in cuts}
    assert len(kept) == 1
    assert min(first, 1) <= max(kept) <= min(first, limit)
    assert all(cut.truncated is (max(kept) < first) for cut in cuts)
    assert all(max(kept) + cut.second[1] - cut.second[0] <= room for cut in cuts)
    assert (cuts[0].second[0], cuts[-1].second[1]) == (0, second)
    for before, after in pairwise(cuts):
        assert after.second[0] == before.second[1] - stride
        assert after.second[0] - before.second[0] >= max(1, room // 8)


def test_a_first_text_within_its_limit_is_whole():
    assert next(cut_question(20, 100, 61, 10, max_question=30)) == Cut((0, 20), (0, 41), False)


def test_a_first_text_is_cut_to_its_limit_also_where_both_would_fit():
    assert list(cut_question(9, 5, 61, None, max_question=4)) == [Cut((0, 4), (0, 5), True)]


def test_the_limit_reaches_the_tokens(folder):
    tokens = DocumentTokenizer.from_folder(folder, max_length=12, stride=2, max_first=2).encode(["a a a"], ["b " * 13])
    assert tokens.input_ids[:5].tolist() == [2, 5, 5, 3, 6]
    assert tokens.truncated.all()
    assert tokens.lengths.tolist() == [12, 12, 8]


def test_a_stride_that_leaves_no_room_for_a_first_text_is_refused(folder):
    tokenizer = DocumentTokenizer.from_folder(folder, max_length=12, stride=8, max_first=2)
    with pytest.raises(ConfigError, match=r"stride of text windows is too large.*at most 7 for a max_length of 12.*8"):
        tokenizer.check_room(pairs=True)
    tokenizer.check_room(pairs=False)


def test_tokens_that_continue_a_word_are_told_by_their_prefix(folder):
    continues = DocumentTokenizer.from_folder(folder, max_length=12).continuations()
    assert np.flatnonzero(continues).tolist() == [7, 8]
    assert len(continues) == len(VOCABULARY)
