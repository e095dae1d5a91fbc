from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.sink.utf8 import valid_utf8

cells = st.lists(st.one_of(st.none(), st.binary(max_size=6), st.text(max_size=4).map(str.encode)), max_size=12)


def strings(values: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """A string array of these bytes, whatever they are."""
    array = pa.array(values, pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
    return pa.Array.from_buffers(kind, len(array), array.buffers())


def mended(values: list[bytes | None]) -> list[str | None]:
    return [None if value is None else value.decode("utf-8", "replace") for value in values]


@settings(deadline=None)
@given(values=cells, start=st.integers(0, 4), kind=st.sampled_from([pa.string(), pa.large_string()]))
def test_broken_bytes_become_replacement_characters_and_nothing_else_changes(values, start, kind):
    found = valid_utf8(strings(values, kind).slice(start))
    found.validate(full=True)
    assert found.type == kind
    assert found.to_pylist() == mended(values[start:])


@settings(deadline=None)
@given(values=cells, cuts=st.lists(st.integers(0, 12), max_size=5), start=st.integers(0, 3))
def test_strings_inside_lists_and_structs_count(values, cuts, start):
    offsets = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), strings(values, pa.string()))
    gaps = pa.array([row % 3 == 1 for row in range(len(lists))])
    structs = pa.StructArray.from_arrays(
        [lists, pa.array(range(len(lists)))],
        fields=[pa.field("tags", lists.type), pa.field("n", pa.int64())],
        mask=gaps,
    )
    whole = [mended(values[a:b]) for a, b in pairwise(offsets)]
    found = valid_utf8(structs.slice(start))
    found.validate(full=True)
    assert found.type == structs.type
    expected = [None if row % 3 == 1 else {"tags": tags, "n": row} for row, tags in enumerate(whole)]
    assert found.to_pylist() == expected[start:]


BROKEN = [b"a", b"\xff", None, b"b\xc3", b"c", b"\xfe", b"ok", b"z"]
KEYS = [b"k\xff", b"a", b"b", b"c", b"d", b"e", b"f", b"g"]


def items() -> pa.Array:
    return strings(BROKEN, pa.string())


def keys(count: int = 8) -> pa.Array:
    return strings(KEYS[:count], pa.string())


def views(kind: type[pa.Array], offsets: pa.DataType) -> pa.Array:
    return kind.from_arrays(pa.array([4, 0, 2], offsets), pa.array([4, 3, 1], offsets), items())


A, B = "\ufffd", "b\ufffd"  # what two of the broken ones become
VIEWS = [["c", A, "ok", "z"], ["a", A, None], [None]]
NESTED = {
    "map": (
        lambda: pa.MapArray.from_arrays(pa.array([0, 2, None, 4, 8], pa.int32()), keys(), items()),
        [
            [("k" + A, "a"), ("a", A)],
            [("b", None), ("c", B)],
            None,
            [("d", "c"), ("e", A), ("f", "ok"), ("g", "z")],
        ],
    ),
    "map of lists": (
        lambda: pa.MapArray.from_arrays(
            pa.array([0, 1, 3]), keys(3), pa.ListArray.from_arrays(pa.array([0, 3, 5, 8]), items())
        ),
        [[("k" + A, ["a", A, None])], [("a", [B, "c"]), ("b", [A, "ok", "z"])]],
    ),
    "large list": (
        lambda: pa.LargeListArray.from_arrays(pa.array([0, 3, None, 8]), items()),
        [["a", A, None], [B, "c", A, "ok", "z"], None],
    ),
    "fixed-size list": (
        lambda: pa.FixedSizeListArray.from_arrays(items(), 2, mask=pa.array([False, True, False, False])),
        [["a", A], None, ["c", A], ["ok", "z"]],
    ),
    "list view": (lambda: views(pa.ListViewArray, pa.int32()), VIEWS),
    "large list view": (lambda: views(pa.LargeListViewArray, pa.int64()), VIEWS),
    "dictionary": (
        lambda: pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2]), items().drop_null()),
        ["a", A, None, B],
    ),
}


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(("build", "expected"), NESTED.values(), ids=NESTED)
def test_strings_inside_every_nested_type_count(build, expected, start):
    array = build().slice(start)
    found = valid_utf8(array)
    found.validate(full=True)
    assert found.type == array.type
    assert found.to_pylist() == expected[start:]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", None]),
        pa.array([b"\xff"]),
        pa.array([1]),
        pa.array([["a"]]),
        pa.nulls(2),
        pa.array(["x"]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_what_is_valid_is_passed_on_as_it_is(array):
    assert valid_utf8(array) is array
