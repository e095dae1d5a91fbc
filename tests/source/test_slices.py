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


def test_numbers_weigh_their_width():
    assert row_bytes("f", pa.array([1, 2])).tolist() == [8, 8]
    assert row_bytes("f", pa.array([1.5, None, 2.5], pa.float32()).slice(1)).tolist() == [4, 4]
    assert row_bytes("f", pa.nulls(3)).tolist() == [0, 0, 0]
    assert row_bytes("f", pa.array([], pa.int64())).tolist() == []


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([[1], [], None, [1, 2, 3]], pa.list_(pa.int64()), [8, 0, 0, 24]),
        ([[1], [], None, [1, 2, 3]], pa.large_list(pa.int16()), [2, 0, 0, 6]),
        ([["a", "é"], ["bcd", None], ["", "x" * 50]], pa.list_(pa.string(), 2), [3, 3, 50]),
        ([["ab"], [None, "c"], ["d", "e"]], pa.list_(pa.string()), [2, 1, 2]),
        ([["ab"], ["c"], ["ab", "ab"]], pa.list_(pa.dictionary(pa.int32(), pa.string())), [2, 1, 4]),
        ([[("k", b"v")], None, [("key", b"value"), ("", b"")]], pa.map_(pa.string(), pa.binary()), [2, 0, 8]),
        ([{"a": 1, "b": ["x"]}, {"a": 2, "b": ["yz", "z"]}],
         pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))]), [5, 7]),
        ([{}, {}], pa.struct([]), [0, 0]),
        ([[["a"], ["bc"]], [[]], [["def"]]], pa.list_(pa.list_(pa.string())), [3, 0, 3]),
        (["ab", None, "c" * 40], pa.string_view(), [2, 0, 40]),
        (["ab", "c"], pa.json_(), [2, 1]),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)  # fmt: skip
def test_what_is_nested_weighs_what_is_inside(values, kind, expected, start):
    storage = pa.array(values, pa.string() if isinstance(kind, pa.BaseExtensionType) else kind)
    array = pa.ExtensionArray.from_storage(kind, storage) if isinstance(kind, pa.BaseExtensionType) else storage
    assert row_bytes("f", array.slice(start)).tolist() == expected[start:]


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
