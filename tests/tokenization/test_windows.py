"""Truncation and text windows as integers, against taking off one token at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.errors import ConfigError, RowError
from distilbatch.tokenization.windows import STRATEGIES, kept_lengths, text_windows


@settings(max_examples=200, deadline=None)
@given(first=st.integers(0, 30), second=st.integers(0, 30), room=st.integers(1, 70))
def test_longest_first_takes_one_token_after_the_other_off_the_longer_text(first, second, room):
    naive = [first, second]
    while sum(naive) > room:
        naive[naive.index(max(naive))] -= 1
    found = kept_lengths([first, second], room=room, strategy="longest_first")
    assert sorted(found) == sorted(naive)
    assert sum(found) == min(first + second, room)
    assert all(0 <= kept <= whole for kept, whole in zip(found, (first, second), strict=True))


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=2),
    room=st.integers(1, 70),
    strategy=st.sampled_from(STRATEGIES),
)
def test_what_fits_stays_and_what_is_cut_fills_the_room(lengths, room, strategy):
    if strategy == "only_second" and len(lengths) == 1:
        return
    try:
        found = kept_lengths(lengths, room=room, strategy=strategy)
    except RowError:
        cut = 1 if strategy == "only_second" else 0
        assert sum(lengths) - lengths[cut] >= room
        return
    assert sum(found) == min(sum(lengths), room)
    if strategy == "only_first":
        assert found[1:] == lengths[1:]
    if strategy == "only_second":
        assert found[0] == lengths[0]


def test_a_text_that_would_lose_everything_is_an_error_row_with_its_number():
    with pytest.raises(RowError) as caught:
        kept_lengths([3, 9], room=8, strategy="only_first", text=41)
    assert str(caught.value) == (
        "text 41: truncation only_first would leave nothing of it; expected more than 4 tokens to cut from; "
        "found 3; use longest_first or a larger max_length"
    )


@pytest.mark.parametrize(
    ("num_tokens", "room", "stride", "expected"),
    [
        (0, 5, 0, [(0, 0)]),
        (5, 5, 4, [(0, 5)]),
        (6, 5, 0, [(0, 5), (5, 6)]),
        (6, 5, 4, [(0, 5), (1, 6)]),
        (10, 5, 0, [(0, 5), (5, 10)]),
        (11, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10), (8, 11)]),
    ],
)
def test_known_windows(num_tokens, room, stride, expected):
    assert text_windows(num_tokens, room=room, stride=stride) == expected
    mirrored = [(num_tokens - stop, num_tokens - start) for start, stop in expected]
    assert text_windows(num_tokens, room=room, stride=stride, side="left") == mirrored


@pytest.mark.parametrize("stride", [-1, 5, 6])
def test_windows_that_would_not_move_on_are_refused(stride):
    with pytest.raises(
        ConfigError, match=rf"^stride; expected 0 to 4, below the tokens of a text window; .* {stride}$"
    ):
        text_windows(6, room=5, stride=stride)
