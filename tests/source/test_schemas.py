"""Types are widened, never narrowed, and a clash names both files."""

from __future__ import annotations

import pyarrow as pa
import pytest

from distilbatch.errors import DataError, FileError
from distilbatch.source.schemas import plain_array, plain_field_type, plain_type, unify

DICTIONARY = pa.dictionary(pa.int8(), pa.string())


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        (pa.string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (DICTIONARY, pa.string()),
        (pa.dictionary(pa.int32(), pa.large_string()), pa.large_string()),
        (pa.list_(DICTIONARY), pa.list_(pa.string())),
        (pa.large_list(pa.string_view()), pa.large_list(pa.string())),
        (pa.list_(pa.string_view(), 2), pa.list_(pa.string(), 2)),
        (pa.map_(pa.string(), DICTIONARY), pa.map_(pa.string(), pa.string())),
        (pa.struct([("a", DICTIONARY)]), pa.struct([("a", pa.string())])),
        (pa.json_(), pa.string()),
        (pa.uuid(), pa.binary(16)),
        (pa.list_(pa.json_()), pa.list_(pa.string())),
        (pa.list_view(DICTIONARY), pa.list_(pa.string())),
        (pa.large_list_view(pa.string_view()), pa.large_list(pa.string())),
        (pa.list_(pa.list_view(pa.string())), pa.list_(pa.list_view(pa.string()))),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
    ],
)
def test_plain_types(stored, plain):
    assert plain_field_type("f", pa.field("c", stored)) == plain


@pytest.mark.parametrize(
    "field",
    [
        pa.field("c", pa.string(), metadata={"ARROW:extension:name": "ray.data.arrow_tensor"}),
        pa.field("c", pa.fixed_shape_tensor(pa.int8(), [2])),
        pa.field("c", pa.struct([("x", pa.opaque(pa.string(), "t", "v"))])),
        pa.field("c", pa.list_(pa.list_view(pa.json_()))),
    ],
)
def test_extension_types_are_refused(field):
    with pytest.raises(FileError, match=r"column 'c' has the extension type '.*', expected a plain type"):
        plain_field_type("f", field)


VALUES = pa.array(["x", "y", None, "z"])
LISTS = [["z"], ["x", "y"], None, [], [None]]
OFFSETS, LENGTHS = pa.array([3, 0, None, 1, 2], pa.int32()), pa.array([1, 2, 0, 0, 1], pa.int32())


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (VALUES.dictionary_encode(), VALUES.to_pylist()),
        (VALUES.dictionary_encode().slice(1, 2), ["y", None]),
        (pa.DictionaryArray.from_arrays([1, None, 0], pa.array(["x", "y"], pa.string_view())), ["y", None, "x"]),
        (VALUES.cast(pa.string_view()), VALUES.to_pylist()),
        (pa.array([b"\xff", None], pa.binary_view()), [b"\xff", None]),
        (pa.array(["{}", None], pa.json_(pa.string_view())), ["{}", None]),
        (pa.ListViewArray.from_arrays(OFFSETS, LENGTHS, VALUES), LISTS),
        (pa.ListViewArray.from_arrays(OFFSETS, LENGTHS, VALUES.dictionary_encode()).slice(1), LISTS[1:]),
        (pa.array(LISTS, pa.large_list_view(pa.string_view())), LISTS),
        (pa.array([], pa.list_view(pa.string())), []),
        (pa.ListArray.from_arrays([0, 2, 4], VALUES.dictionary_encode()), [["x", "y"], [None, "z"]]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_plain_arrays_hold_the_same_values(array, values):
    plain = plain_array(array)
    plain.validate(full=True)
    assert (plain.type, plain.to_pylist()) == (plain_type(array.type), values)


def test_a_plain_array_is_left_as_it_is():
    assert plain_array(VALUES) is VALUES


@pytest.mark.parametrize(
    ("stored", "unified"),
    [
        ([pa.string(), pa.string()], pa.string()),
        ([pa.string(), pa.large_string()], pa.large_string()),
        ([pa.string(), pa.binary()], pa.binary()),
        ([pa.large_string(), pa.binary()], pa.large_binary()),
        ([pa.null(), pa.large_string()], pa.large_string()),
        ([pa.null(), pa.binary()], pa.binary()),
        ([pa.null(), pa.null()], pa.string()),
    ],
)
def test_text_stays_bytes_once_a_file_has_bytes(stored, unified):
    files = [(f"f{i}", {"t": data_type}) for i, data_type in enumerate(stored)]
    assert unify(files, text_column="t", columns=[]).field("t").type == unified
    assert unify(files[::-1], text_column="t", columns=[]).field("t").type == unified


@pytest.mark.parametrize(
    ("stored", "unified"),
    [
        ([pa.int32(), pa.int64()], pa.int64()),
        ([pa.null(), pa.int64()], pa.int64()),
        ([pa.int64(), pa.float64()], pa.float64()),
        ([pa.list_(pa.int32()), pa.list_(pa.int64())], pa.list_(pa.int64())),
        ([pa.timestamp("s"), pa.timestamp("us")], pa.timestamp("us")),
        ([pa.struct([("a", pa.int32())]), pa.struct([("b", pa.string())])],
         pa.struct([("a", pa.int32()), ("b", pa.string())])),
        ([pa.decimal128(5, 2), pa.decimal128(7, 4)], pa.decimal128(7, 4)),
        ([pa.int64(), pa.decimal128(5, 2)], pa.decimal128(21, 2)),
        ([pa.decimal32(5, 2), pa.uint64()], pa.decimal128(22, 2)),
        ([pa.int8(), pa.decimal128(38, 37)], pa.decimal256(40, 37)),
        ([pa.list_(pa.decimal128(38, 2)), pa.list_(pa.int64())], pa.list_(pa.decimal128(38, 2))),
    ],
)  # fmt: skip
def test_other_columns_widen(stored, unified):
    files = [(f"f{i}", {"t": pa.string(), "c": data_type}) for i, data_type in enumerate(stored)]
    assert unify(files, text_column="t", columns=["c"]).field("c").type == unified


@pytest.mark.parametrize("integer", [pa.int8(), pa.int16(), pa.uint32(), pa.int64(), pa.uint64()], ids=str)
def test_a_decimal_has_room_for_the_integers_beside_it(integer):
    files = [("f0", {"t": pa.string(), "c": pa.decimal128(5, 2)}), ("f1", {"t": pa.string(), "c": integer})]
    signed = pa.types.is_signed_integer(integer)
    values = [2 ** (integer.bit_width - signed) - 1, -(2 ** (integer.bit_width - 1)) if signed else 0]
    assert (
        pa.array(values, integer).cast(unify(files, text_column="t", columns=["c"]).field("c").type).to_pylist()
        == values
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.decimal128(38, 2), pa.float64()),
        (pa.float32(), pa.decimal32(5, 2)),
        (pa.decimal256(76, 60), pa.int64()),
        (pa.list_(pa.decimal128(5, 2)), pa.list_(pa.float64())),
        (pa.list_(pa.field("element", pa.decimal128(5, 2))), pa.list_(pa.field("item", pa.float64()))),
        (pa.struct([("b", pa.int8()), ("a", pa.decimal128(5, 2))]), pa.struct([("a", pa.float64())])),
        (pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), pa.decimal128(5, 2))),
        (pa.list_(pa.decimal128(5, 2)), pa.list_(pa.int64())),
    ],
    ids=str,
)
def test_types_that_would_lose_digits_are_a_clash(left, right):
    files = [("f0", {"t": pa.string(), "c": left}), ("f1", {"t": pa.string(), "c": right})]
    with pytest.raises(DataError, match=r"column 'c' has types that do not go together; found .* in f0, .* in f1"):
        unify(files, text_column="t", columns=["c"])


def test_order_is_text_first_then_as_asked_and_duplicates_go():
    files = [("f", {"a": pa.int8(), "t": pa.string(), "b": pa.int8()})]
    assert unify(files, text_column="t", columns=["b", "t", "a", "b"]).names == ["t", "b", "a"]


def test_a_clash_names_the_column_both_files_and_both_types():
    files = [
        ("f0", {"t": pa.string(), "c": pa.int32()}),
        ("f1", {"t": pa.string(), "c": pa.int64()}),
        ("f2", {"t": pa.string(), "c": pa.string()}),
    ]
    message = "column 'c' has types that do not go together; found int32 in f0, string in f2"
    with pytest.raises(DataError, match=message):
        unify(files, text_column="t", columns=["c"])
