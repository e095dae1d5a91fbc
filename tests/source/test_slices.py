"""Batches are cut by the bytes of their texts, measured without decoding dictionaries."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilbatch.errors import FileError
from distilbatch.source.slices import cuts, row_bytes


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["ab", None, "é", ""]),
        pa.array(["ab", None, "é", ""], pa.large_string()),
        pa.array([b"ab", None, b"xy", b""]),
        pa.array(["ab", None, "é", ""]).dictionary_encode(),
        pa.array(["zzz", "ab", None, "é", ""]).dictionary_encode().slice(1),
    ],
)
def test_bytes_of_each_row(array):
    assert row_bytes("f", array).tolist() == [2, 0, 2, 0]


def test_other_types_weigh_nothing():
    assert row_bytes("f", pa.array([1, 2])).tolist() == [0, 0]


def test_an_index_outside_of_its_dictionary_is_refused():
    array = pa.DictionaryArray.from_arrays(pa.array([0, 5]), pa.array(["a"]), safe=False)
    with pytest.raises(FileError, match="an index outside of its dictionary"):
        row_bytes("f", array)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_cuts_cover_all_rows_within_the_limit(sizes, max_bytes):
    stops = list(cuts(np.array(sizes, np.int64), max_bytes=max_bytes))
    starts = [0, *stops[:-1]]
    assert (stops[-1] if stops else 0) == len(sizes)
    for start, stop in zip(starts, stops, strict=False):
        assert start < stop
        assert stop - start == 1 or sum(sizes[start:stop]) <= max_bytes
        assert stop == len(sizes) or sum(sizes[start : stop + 1]) > max_bytes
