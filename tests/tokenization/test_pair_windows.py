"""Pairs whose first text is read in windows: every token in one, none too long, the same beside all second texts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.errors import ConfigError
from distilbatch.tokenization import DocumentTokenizer
from distilbatch.tokenization.encode import Cut, cut_pair, longest_stride

WORDS = tuple(f"w{number}" for number in range(400))
FIRST_ID = 5
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary in which each word is one token, so that a token says which word of its text it is."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return folder


def text(count: int) -> str:
    return " ".join(WORDS[:count])


def parts_of(ids: list[int]) -> tuple[list[int], list[int]]:
    """The places of the words of both texts in a document, which has the special tokens where they belong."""
    middle = ids.index(SEP)
    assert (ids[0], ids[-1], ids.count(CLS), ids.count(SEP)) == (CLS, SEP, 1, 2)
    return [index - FIRST_ID for index in ids[1:middle]], [index - FIRST_ID for index in ids[middle + 1 : -1]]


@settings(max_examples=300, deadline=None)
@given(
    first=st.integers(1, 300),
    seconds=st.lists(st.integers(1, 120), min_size=1, max_size=4),
    room=st.integers(2, 70),
    share=st.floats(0, 1),
)
def test_windows_hold_every_token_share_the_stride_and_fit(folder, first, seconds, room, share):
    stride = int(share * longest_stride(room))
    tokenizer = DocumentTokenizer.from_folder(folder, max_length=room + 3, stride=stride)
    tokenizer.check_room(pairs=True)
    rows = np.zeros(len(seconds), np.int64)
    tokens = tokenizer.encode([text(first)] * len(seconds), [text(second) for second in seconds], rows=rows)
    assert tokens.lengths.max() <= room + 3
    documents = [parts_of(ids.tolist()) for ids in np.split(tokens.input_ids, tokens.cu_seqlens[1:-1])]
    by_pair = [[documents[i] for i in np.flatnonzero(tokens.sequences == pair)] for pair in range(len(seconds))]
    windows = [main for main, _ in by_pair[0]]
    assert all([main for main, _ in found] == windows for found in by_pair)
    assert tokens.windows.tolist() == list(range(len(windows))) * len(seconds)
    assert all(main == list(range(main[0], main[-1] + 1)) for main in windows)
    assert (windows[0][0], windows[-1][-1]) == (0, first - 1)
    for before, after in pairwise(windows):
        assert before[-1] - after[0] + 1 == stride
        assert after[0] - before[0] >= max(1, room // 8)
    for pair, (second, found) in enumerate(zip(seconds, by_pair, strict=True)):
        beside = found[0][1]
        assert all(other == beside for _, other in found)
        assert beside == list(range(len(beside)))
        assert 1 <= len(beside) <= second
        assert len(beside) <= max(room // 2, room - first)
        assert (tokens.truncated[tokens.sequences == pair] == (len(beside) < second)).all()


@settings(max_examples=300, deadline=None)
@given(first=st.integers(0, 90), second=st.integers(0, 90), room=st.integers(2, 70), share=st.floats(0, 1))
def test_what_fits_into_one_document_is_read_as_without_windows(first, second, room, share):
    stride = int(share * longest_stride(room))
    found = list(cut_pair(first, second, room, stride))
    if first + second <= room:
        assert found == list(cut_pair(first, second, room, None)) == [Cut((0, first), (0, second), False)]
    elif first <= room // 2:  # the second text alone is too long: it is cut as truncation cuts it
        assert found == list(cut_pair(first, second, room, None)) == [Cut((0, first), (0, room - first), True)]
    else:
        assert found[-1].first[1] == first


@pytest.mark.parametrize(
    ("first", "second", "room", "stride", "longest", "expected"),
    [
        (10, 3, 8, 1, 0, [Cut((0, 5), (0, 3), False), Cut((4, 9), (0, 3), False), Cut((8, 10), (0, 3), False)]),
        (10, 9, 8, 0, 0, [Cut((0, 4), (0, 4), True), Cut((4, 8), (0, 4), True), Cut((8, 10), (0, 4), True)]),
        (10, 2, 8, 0, 9, [Cut((0, 4), (0, 2), False), Cut((4, 8), (0, 2), False), Cut((8, 10), (0, 2), False)]),
        (5, 9, 8, 0, 0, [Cut((0, 4), (0, 4), True), Cut((4, 5), (0, 4), True)]),
        (9, 4, 8, 6, 0, [Cut((0, 7), (0, 1), True), Cut((1, 8), (0, 1), True), Cut((2, 9), (0, 1), True)]),
        (0, 9, 8, 6, 0, [Cut((0, 0), (0, 8), True)]),
        (3, 1, 2, 0, 0, [Cut((0, 1), (0, 1), False), Cut((1, 2), (0, 1), False), Cut((2, 3), (0, 1), False)]),
    ],
)
def test_known_cuts(first, second, room, stride, longest, expected):
    assert list(cut_pair(first, second, room, stride, longest=longest)) == expected


def test_pairs_of_another_row_have_windows_of_their_own(folder):
    tokenizer = DocumentTokenizer.from_folder(folder, max_length=11, stride=0)
    firsts, seconds = [text(10)] * 3, [text(2), text(3), text(1)]
    tokens = tokenizer.encode(firsts, seconds, rows=np.array([4, 4, 7]))
    assert tokens.lengths.tolist() == [10, 10, 11, 11, 11, 7]  # two windows of 5 words, then 7 and 3 words
    alone = tokenizer.encode(firsts, seconds)
    assert alone.lengths.tolist() == [11, 9, 11, 11, 11, 7]


def test_a_pair_without_a_main_text_is_blank_and_one_without_the_other_is_left_out(folder):
    firsts, seconds = ["\x01", "w1", "w2", "\x01"], ["w1", "\x01", "w3", "\x01"]
    tokens = DocumentTokenizer.from_folder(folder, max_length=11).encode(firsts, seconds)
    assert (tokens.sequences.tolist(), tokens.blank.tolist()) == ([2], [0, 3])
    asked = DocumentTokenizer.from_folder(folder, max_length=11, max_first=4).encode(firsts, seconds)
    assert (asked.sequences.tolist(), asked.blank.tolist()) == ([0, 2], [1, 3])
    assert DocumentTokenizer.from_folder(folder, max_length=11).encode(["\x01", "w1"]).blank.tolist() == [0]


@pytest.mark.parametrize(
    ("max_length", "stride", "pairs", "message"),
    [
        (12, 10, False, "at most 9 for a max_length of 12; found 10; lower the stride or raise max_length"),
        (12, 8, True, "at most 7 for a max_length of 12; found 8; lower the stride or raise max_length"),
        (5, 1, True, "at most 0 for a max_length of 5; found 1; lower the stride or raise max_length"),
    ],
)
def test_a_stride_with_which_windows_do_not_get_on_is_refused(folder, max_length, stride, pairs, message):
    tokenizer = DocumentTokenizer.from_folder(folder, max_length=max_length, stride=stride)
    for call in (
        lambda: tokenizer.check_room(pairs=pairs),
        lambda: tokenizer.encode(["w1"], ["w1"] if pairs else None),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == f"the stride of text windows is too large; expected {message}"
    DocumentTokenizer.from_folder(folder, max_length=max_length, stride=stride - 1).check_room(pairs=pairs)


def test_a_length_without_a_token_for_each_text_is_refused(folder):
    with pytest.raises(ConfigError, match=r"^max_length is too small; expected at least 5 for two texts; found 4$"):
        DocumentTokenizer.from_folder(folder, max_length=4).check_room(pairs=True)
    DocumentTokenizer.from_folder(folder, max_length=5).check_room(pairs=True)
