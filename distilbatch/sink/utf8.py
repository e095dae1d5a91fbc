"""Makes text columns valid UTF-8 before they are written: strict readers refuse a whole file for one bad byte."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types


def valid_utf8(array: pa.Array) -> pa.Array:
    """Return an array with each broken sequence of its strings replaced by U+FFFD; itself where there is none.

    Args:
        array: Values of any type that Parquet files have; strings inside lists, maps and structs count. Arrow does not
            check what it reads.
    """
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return _repair(array)
    return array


def _repair(array: pa.Array) -> pa.Array:
    kind = array.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        values = [value.as_buffer().to_pybytes() if value.is_valid else None for value in array]
        return pa.array([None if value is None else value.decode("utf-8", "replace") for value in values], kind)
    if types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(array.indices, _repair(array.dictionary), ordered=kind.ordered)
    if not types.is_nested(kind) or types.is_union(kind):
        return array
    whole = array.take(pa.array(range(len(array)), pa.int64()))  # rid of a slice's offset
    fields = range(kind.num_fields)
    children = [whole.field(index) for index in fields] if types.is_struct(kind) else [whole.values]
    own = whole.buffers()[: _num_buffers(kind)]
    return pa.Array.from_buffers(kind, len(whole), own, children=[_repair(child) for child in children])


def _num_buffers(kind: pa.DataType) -> int:
    """Buffers of an array itself: validity first, then offsets and sizes where lists differ in length."""
    if types.is_struct(kind) or types.is_fixed_size_list(kind):
        return 1
    return 3 if types.is_list_view(kind) or types.is_large_list_view(kind) else 2
